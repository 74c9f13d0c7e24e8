//! `check`: what is wrong with a configuration, without a daemon.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use cml_wire::{
    proto::{ContainerConfig, DeviceConfig, GuestOsConfig},
    rules::{self, Mistake, Ruled, Wrong},
    text::What,
};
use serde_json::{Value, json};

use super::file;
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
}

/// `check`
pub fn check(format: Format, check: &Check) -> Result<u8, CliError> {
    let mut findings = Vec::new();
    for path in &check.files {
        let finding = examine(&contents(path)?, check.kind);
        findings.push((path.display().to_string(), finding));
    }
    let out = match format {
        Format::Json => json(&findings),
        Format::Text | Format::Table { .. } => lines(&findings),
    };
    let written = io::stdout().write_all(out.as_bytes());
    written.map_err(CliError::Output)?;
    let all_good = findings.iter().all(|(_, found)| found.mistakes.is_empty());
    Ok(if all_good { exit::OK } else { exit::REFUSED })
}

fn contents(path: &Path) -> Result<Vec<u8>, CliError> {
    if path != "-" {
        return file(path);
    }
    let mut text = Vec::new();
    let read = io::stdin().read_to_end(&mut text);
    read.map(|_| text).map_err(|source| CliError::File {
        path: "standard input".into(),
        source,
    })
}

fn examine(text: &[u8], kind: Option<Kind>) -> Finding {
    let as_kind = |kind| Finding {
        kind,
        mistakes: match kind {
            Kind::Container => mistakes::<ContainerConfig>(text),
            Kind::Guestos => mistakes::<GuestOsConfig>(text),
            Kind::Device => mistakes::<DeviceConfig>(text),
        },
    };
    match kind {
        Some(kind) => as_kind(kind),
        None => {
            let kinds = [Kind::Container, Kind::Guestos, Kind::Device];
            let likely = kinds.map(as_kind).into_iter();
            let best = likely.min_by_key(|finding| strangers(&finding.mistakes));
            best.unwrap_or_else(|| as_kind(Kind::Container))
        }
    }
}

fn mistakes<M: Ruled>(text: &[u8]) -> Vec<Mistake> {
    rules::check::<M>(text).1
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
fn lines(findings: &[(String, Finding)]) -> String {
    let mut out = String::new();
    for (path, finding) in findings {
        for mistake in &finding.mistakes {
            let (line, column) = (mistake.line, mistake.column);
            let wrong = printable(&mistake.wrong.to_string());
            out += &format!("{path}:{line}:{column}: {wrong}\n");
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

fn json(findings: &[(String, Finding)]) -> String {
    let mistake = |mistake: &Mistake| {
        json!({
            "line": mistake.line,
            "column": mistake.column,
            "error": mistake.wrong.to_string(),
        })
    };
    let file = |(path, finding): &(String, Finding)| {
        json!({
            "file": path,
            "kind": match finding.kind {
                Kind::Container => "container",
                Kind::Guestos => "guestos",
                Kind::Device => "device",
            },
            "mistakes": finding.mistakes.iter().map(mistake).collect::<Value>(),
        })
    };
    let ok = findings.iter().all(|(_, found)| found.mistakes.is_empty());
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
    fn mistakes_are_shown_as_compilers_show_them() {
        let finding = examine(b"name: \"a\"\ncolour: 1\nguest_os: \"g\"\n", None);
        assert_eq!(
            lines(&[("web.conf".into(), finding)]),
            "web.conf:2:1: ContainerConfig has no field `colour`; did you mean `color`?\n\
             web.conf: configuration of a container, 1 mistake\n"
        );
    }
}
