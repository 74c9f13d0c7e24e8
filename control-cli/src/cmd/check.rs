//! `check`: what is wrong with a configuration, without a daemon.

use std::io::{self, Write};

use cml_wire::{
    proto::{ContainerConfig, DeviceConfig, GuestOsConfig},
    rules::{self, Mistake, Ruled, Wrong},
    text::What,
};
use serde_json::{Value, json};

use crate::{
    cli::{Check, Kind},
    exit::{self, CliError},
    render::{Format, printable},
};

/// What a file was taken for, and what is wrong with it.
#[derive(Debug)]
struct Finding {
    kind: Kind,
    mistakes: Vec<Mistake>,
    /// What is no mistake, and yet not what one would expect.
    remarks: Vec<String>,
}

/// A file by its name, with what was found or why nothing was.
type Checked = (String, Result<Finding, String>);

const EMPTY: &str = "the file is empty: only the configuration of a device may be";
const JSON: &str =
    "this looks like JSON; configurations are protobuf text, such as `name: \"web\"`";

/// `check`
pub fn check(format: Format, check: &Check) -> Result<u8, CliError> {
    let mut findings = Vec::new();
    for path in &check.files {
        // One file's trouble is not the others'.
        let finding = super::input(path).map(|text| examine(&text, check.kind));
        findings.push((
            path.display().to_string(),
            finding.map_err(|error| error.to_string()),
        ));
    }
    let out = match format {
        Format::Json => json(&findings),
        Format::Text | Format::Table { .. } => lines(&findings),
    };
    let written = io::stdout().write_all(out.as_bytes());
    written.map_err(CliError::Output)?;
    let all_good = findings.iter().all(|(_, found)| is_good(found));
    Ok(if all_good { exit::OK } else { exit::REFUSED })
}

fn is_good(found: &Result<Finding, String>) -> bool {
    found.as_ref().is_ok_and(|found| found.mistakes.is_empty())
}

fn examine(text: &[u8], kind: Option<Kind>) -> Finding {
    let as_kind = |kind| match kind {
        Kind::Container => finding::<ContainerConfig>(kind, text),
        Kind::Guestos => finding::<GuestOsConfig>(kind, text),
        Kind::Device => finding::<DeviceConfig>(kind, text),
    };
    let mut found = best(as_kind, kind);
    if text.trim_ascii().is_empty() && kind.is_none() {
        found.remarks.push(EMPTY.into());
    }
    // One mistake is not taken for many.
    if text.trim_ascii_start().starts_with(b"{") {
        found.mistakes.truncate(1);
        found.remarks.push(JSON.into());
    }
    found
}

fn best(as_kind: impl Fn(Kind) -> Finding, kind: Option<Kind>) -> Finding {
    match kind {
        Some(kind) => as_kind(kind),
        None => {
            let kinds = [Kind::Container, Kind::Guestos, Kind::Device];
            let likely = kinds.map(&as_kind).into_iter();
            let best = likely.min_by_key(|finding| strangers(&finding.mistakes));
            best.unwrap_or_else(|| as_kind(Kind::Container))
        }
    }
}

fn finding<M: Ruled>(kind: Kind, text: &[u8]) -> Finding {
    let rules::Checked {
        mistakes, remarks, ..
    } = rules::check::<M>(text);
    Finding {
        kind,
        mistakes,
        remarks,
    }
}

/// How many fields this kind of file does not have, and how many it lacks: what tells the kinds apart.
fn strangers(mistakes: &[Mistake]) -> (usize, usize) {
    let count = |counts: fn(&What) -> bool| {
        let forms = mistakes.iter().filter_map(|mistake| match &mistake.wrong {
            Wrong::Form(what) => Some(what),
            Wrong::Length(..) | Wrong::Value(_) => None,
        });
        forms.filter(|what| counts(what)).count()
    };
    (
        count(|what| matches!(what, What::UnknownField { .. })),
        count(|what| matches!(what, What::Missing { .. })),
    )
}

fn called(kind: Kind) -> &'static str {
    match kind {
        Kind::Container => "configuration of a container",
        Kind::Guestos => "configuration of a guest OS",
        Kind::Device => "configuration of the device",
    }
}

/// A line for each mistake, as compilers write them, so that editors find the place.
fn lines(findings: &[Checked]) -> String {
    let mut out = String::new();
    for (path, finding) in findings {
        let finding = match finding {
            Ok(finding) => finding,
            Err(error) => {
                out += &format!("{path}: {}\n", printable(error));
                continue;
            }
        };
        for mistake in &finding.mistakes {
            let (line, column) = (mistake.line, mistake.column);
            let wrong = printable(&mistake.wrong.to_string());
            out += &format!("{path}:{line}:{column}: {wrong}\n");
        }
        for remark in &finding.remarks {
            out += &format!("{path}: warning: {remark}\n");
        }
        let verdict = match finding.mistakes.len() {
            0 => "no mistakes".into(),
            1 => "1 mistake".into(),
            more => format!("{more} mistakes"),
        };
        out += &format!("{path}: {}, {verdict}\n", called(finding.kind));
    }
    out
}

fn json(findings: &[Checked]) -> String {
    let mistake = |mistake: &Mistake| {
        json!({
            "line": mistake.line,
            "column": mistake.column,
            "error": mistake.wrong.to_string(),
        })
    };
    let file = |(path, finding): &Checked| match finding {
        Err(error) => json!({"file": path, "error": error}),
        Ok(finding) => json!({
            "file": path,
            "kind": match finding.kind {
                Kind::Container => "container",
                Kind::Guestos => "guestos",
                Kind::Device => "device",
            },
            "mistakes": finding.mistakes.iter().map(mistake).collect::<Value>(),
            "warnings": finding.remarks,
        }),
    };
    let ok = findings.iter().all(|(_, found)| is_good(found));
    let files: Value = findings.iter().map(file).collect();
    format!("{:#}\n", json!({"ok": ok, "files": files}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Kind {
        examine(text.as_bytes(), None).kind
    }

    #[test]
    fn a_file_is_taken_for_what_it_looks_like() {
        assert_eq!(kind("name: \"a\" guest_os: \"b\""), Kind::Container);
        assert_eq!(
            kind("name: \"a\" guest_oss: \"b\" color: 1"),
            Kind::Container
        );
        assert_eq!(
            kind("name: \"a\" hardware: \"x86\" version: 1 description { en: \"\" }"),
            Kind::Guestos
        );
        assert_eq!(
            kind("name: \"a\" hardware: \"x86\" mounts { }"),
            Kind::Guestos
        );
        assert_eq!(kind("hostedmode: true signed_config: false"), Kind::Device);
        assert_eq!(kind(""), Kind::Device);
    }

    #[test]
    fn what_is_no_mistake_may_still_be_remarked_upon() {
        let found = |text: &str| examine(text.as_bytes(), None);
        let waits = found("name: \"a\" guest_os: \"g\" allow_autostart: true");
        assert!(waits.mistakes.is_empty() && waits.remarks.len() == 1);
        let twice = found("hostedmode: true hostedmode: false");
        assert!(twice.mistakes.is_empty() && twice.remarks.len() == 1);
        assert_eq!(found(" \n").remarks, [EMPTY]);
        let json = found("{\n \"name\": \"a\",\n \"guest_os\": \"g\"\n}\n");
        assert_eq!(
            (json.mistakes.len(), json.remarks),
            (1, vec![JSON.to_owned()])
        );
    }

    #[test]
    fn mistakes_are_shown_as_compilers_show_them() {
        let finding = examine(b"name: \"a\"\ncolour: 1\nguest_os: \"g\"\n", None);
        assert_eq!(
            lines(&[("web.conf".into(), Ok(finding))]),
            "web.conf:2:1: ContainerConfig has no field `colour`; did you mean `color`?\n\
             web.conf: configuration of a container, 1 mistake\n"
        );
    }
}
