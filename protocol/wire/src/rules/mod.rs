//! What the values of a configuration must keep to, beyond the form that [`crate::text`] reads.
//!
//! The daemon refuses what breaks a rule, `control check` explains all of it without a daemon: both ask here. Only
//! what a file alone can tell is a rule; whether a guest OS is installed, or a signature good, is not.

mod container;
mod device;
mod guestos;
mod machine;
mod words;

use prost::{Message, Name};

pub use guestos::{SHARED_STORE, has_image};
pub use machine::{device, processors, usb};
pub use words::is_component;

use crate::{
    proto::{ContainerConfig, DeviceConfig, GuestOsConfig},
    text::{self, What},
};

/// A value that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct Breach {
    /// Its path, such as `vnet_configs[1].if_name`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// The breaches found so far.
#[derive(Debug, Default)]
struct Breaches(Vec<Breach>);

impl Breaches {
    /// Notes a breach if there is a reason to.
    fn note(&mut self, field: impl Into<String>, reason: Option<String>) {
        self.0.extend(reason.map(|reason| Breach {
            field: field.into(),
            reason,
        }));
    }

    /// Notes what is wrong with each value of a list.
    fn each<T>(&mut self, field: &str, values: &[T], check: impl Fn(&T) -> Option<String>) {
        for (index, value) in values.iter().enumerate() {
            self.note(format!("{field}[{index}]"), check(value));
        }
    }
}

/// A configuration that has rules.
pub trait Ruled: Message + Name + Default {
    /// The longest text of it, in bytes. All configurations of a kind travel in one reply of less than 64 MiB
    /// (protocol.md 1.3).
    const LONGEST: usize = 256 << 10;

    /// All breaches, in the order of the fields.
    fn breaches(&self) -> Vec<Breach>;

    /// What is allowed, and yet not what one would expect.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Ruled for ContainerConfig {
    fn breaches(&self) -> Vec<Breach> {
        container::breaches(self)
    }

    fn remarks(&self) -> Vec<String> {
        container::remarks(self)
    }
}

impl Ruled for GuestOsConfig {
    // There may be an icon in it.
    const LONGEST: usize = 4 << 20;

    fn breaches(&self) -> Vec<Breach> {
        guestos::breaches(self)
    }
}

impl Ruled for DeviceConfig {
    fn breaches(&self) -> Vec<Breach> {
        device::breaches(self)
    }
}

/// Something wrong with the text of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {wrong}")]
pub struct Mistake {
    /// From 1. Of something that is missing: where the text ends.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What is wrong with the text of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Its length.
    #[error("the text has {0} bytes, and {1} are the most")]
    Length(usize, usize),
    /// Its form.
    #[error(transparent)]
    Form(What),
    /// A value.
    #[error(transparent)]
    Value(Breach),
}

/// Reads a configuration that can be used.
///
/// # Errors
/// The first mistake.
pub fn read<M: Ruled>(text: &[u8]) -> Result<M, Mistake> {
    if text.len() <= M::LONGEST
        && let Ok(config) = text::parse::<M>(text)
        && config.breaches().is_empty()
    {
        return Ok(config);
    }
    let checked = check(text);
    let first = checked.mistakes.into_iter().next();
    first.map_or(Ok(checked.config), Err)
}

/// What a look at the text of a configuration finds.
#[derive(Debug, Default)]
pub struct Checked<M> {
    /// What could be read of it.
    pub config: M,
    /// All that is wrong with it, in the order of the lines.
    pub mistakes: Vec<Mistake>,
    /// What is allowed, and yet not what one would expect.
    pub remarks: Vec<String>,
}

/// All mistakes in the text of a configuration, and what could be read of it.
#[must_use]
pub fn check<M: Ruled>(text: &[u8]) -> Checked<M> {
    if text.len() > M::LONGEST {
        let mistake = Mistake {
            line: 1,
            column: 1,
            wrong: Wrong::Length(text.len(), M::LONGEST),
        };
        return Checked {
            mistakes: vec![mistake],
            ..Checked::default()
        };
    }
    let examined = text::examine::<M>(text);
    let well_formed = examined.mistakes.is_empty();
    let mut mistakes: Vec<_> = examined
        .mistakes
        .iter()
        .map(|error| Mistake {
            line: error.line,
            column: error.column,
            wrong: Wrong::Form(error.what.clone()),
        })
        .collect();
    for breach in examined.message.breaches() {
        // What could not be read has been complained about already.
        let Some((line, column)) = examined
            .locate(&breach.field)
            .or(well_formed.then_some(examined.end()))
        else {
            continue;
        };
        mistakes.push(Mistake {
            line,
            column,
            wrong: Wrong::Value(breach),
        });
    }
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    let overruled = examined.overruled().map(|(path, line)| {
        format!("`{path}` is given more than once; that of line {line} takes the place of the one before")
    });
    Checked {
        remarks: examined
            .message
            .remarks()
            .into_iter()
            .chain(overruled)
            .collect(),
        config: examined.message,
        mistakes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes<M: Ruled>(text: &str) -> Vec<String> {
        let checked = check::<M>(text.as_bytes());
        checked.mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_found_and_has_its_place() {
        let text = "nam: \"web\"\nguest_os: \"../x\"\ncolor: red\ntype: LXC\nvnet_configs {\n  if_name: \"\"\n  \
                    mtu: 5 configure: true\n}\nvnet_configs { if_name: \"much-too-long-name\" }\ntoken_typ: SOFT\n";
        assert_eq!(
            mistakes::<ContainerConfig>(text),
            [
                "line 1, column 1: ContainerConfig has no field `nam`; did you mean `name`?",
                "line 2, column 11: `guest_os`: \"../x\" cannot be part of a file name",
                "line 3, column 8: `red` is no 32-bit unsigned number for `color`",
                "line 4, column 7: `LXC` is no ContainerType (CONTAINER, KVM) for `type`",
                "line 6, column 12: `vnet_configs[0].if_name`: \"\" is no name of a network interface: 1 to 15 bytes, \
                 no `/`, `:`, `%` or white space, not `.` or `..`",
                "line 7, column 3: ContainerVnetConfig has no field `mtu`",
                "line 9, column 25: `vnet_configs[1].if_name`: \"much-too-long-name\" is no name of a network \
                 interface: 1 to 15 bytes, no `/`, `:`, `%` or white space, not `.` or `..`",
                "line 10, column 1: ContainerConfig has no field `token_typ`; did you mean `token_type`?",
                "line 11, column 1: ContainerConfig lacks the required field `name`",
            ]
        );
    }

    #[test]
    fn a_setting_that_is_given_twice_is_remarked_upon_where_the_last_one_counts() {
        let text = b"hostedmode: true\ntpm_enabled: true\n\nhostedmode: false\n";
        let checked = check::<DeviceConfig>(text);
        assert_eq!(checked.mistakes, []);
        assert!(!checked.config.hostedmode);
        assert_eq!(
            checked.remarks,
            [
                "`hostedmode` is given more than once; that of line 4 takes the place of the one before"
            ]
        );
        let inner = b"name: \"a\" guest_os: \"g\" token_type: NONE\n\
            vnet_configs { if_name: \"e\" configure: true configure: false }\n\
            vnet_configs { if_name: \"f\" configure: true }\n";
        let checked = check::<ContainerConfig>(inner);
        assert_eq!(checked.mistakes, []);
        assert_eq!(checked.remarks.len(), 1);
        assert!(checked.remarks[0].contains("`vnet_configs[0].configure`"));
    }

    #[test]
    fn one_mistake_of_form_is_not_taken_for_many() {
        for (text, says) in [
            (
                "name = \"a\"\nguest_os: \"g\"\nname: \"b\"",
                "unexpected byte '='",
            ),
            ("name \"a\"\nguest_os: \"g\"\nname: \"b\"", "expected `:`"),
            ("name:\nguest_os: \"g\"\nname: \"b\"", "expected a value"),
            (
                "name: \"b\"\nguest_os: \"g\"\nx { y: [1, 2] z <> } ",
                "no field `x`",
            ),
            ("name: \"b\"\nguest_os: \"g\"\nx: [1, 2] ", "no field `x`"),
            (
                "name: \"b\"\nguest_os: \"g\"\nvnet_configs { if_name: }\n",
                "expected a value",
            ),
            (
                "name: \"b\"\nguest_os: \"g\"\ninit_env: [\"A=1\", 7, \"B=2\"]\n",
                "`7` is no string",
            ),
            ("name: \"b\"\nguest_os: \"g\"\nname: \"c\"\n", "given twice"),
            (
                "name: \"b\"\nguest_os: \"g\"\nvnet_configs {\n if_name: \"e\"\n",
                "expected `}`",
            ),
        ] {
            let found = mistakes::<ContainerConfig>(text);
            assert!(found[0].contains(says), "{text:?}: {found:?}");
            assert!(found.len() <= 2, "{text:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_missing_is_missing_at_the_end() {
        let text = "name: \"g\" hardware: \"x86\" description { en: \"\" }\n";
        assert_eq!(
            mistakes::<GuestOsConfig>(text),
            ["line 2, column 1: `version`: it must be above 0"]
        );
        assert!(mistakes::<DeviceConfig>("").is_empty());
    }

    #[test]
    fn a_text_may_be_so_long_and_no_longer() {
        let longest = "#".repeat(DeviceConfig::LONGEST);
        assert!(mistakes::<DeviceConfig>(&longest).is_empty());
        let longer = longest + "#";
        assert!(mistakes::<DeviceConfig>(&longer)[0].contains("262144 are the most"));
        assert!(read::<DeviceConfig>(longer.as_bytes()).is_err());
    }

    #[test]
    fn a_list_as_long_as_a_text_may_be_is_read_in_no_time() {
        // Each value once would be copied 30,000 times by a reader that copies lists.
        let line = "init_env: \"A=1\"\n";
        let count = ContainerConfig::LONGEST / line.len() - 10;
        let text = format!("name: \"c\"\nguest_os: \"g\"\n{}", line.repeat(count));
        let checked = check::<ContainerConfig>(text.as_bytes());
        assert!(checked.mistakes.is_empty());
        assert_eq!(checked.config.init_env.len(), count);
    }

    #[test]
    fn hostile_text_has_a_last_mistake() {
        for text in [
            "{ ".repeat(10_000),
            "x: y\n".repeat(10_000),
            "vnet_configs {".repeat(10_000),
        ] {
            let found = mistakes::<ContainerConfig>(&text).len();
            assert!((1..=100).contains(&found), "{found}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_has_no_mistake_exactly_if_it_can_be_read(text in "(name: \"[a./]{0,2}\"|guest_os: \"g\"|color: [0-9x]{1,2}|vnet_configs|[{}<>\\[\\]:;,=\"]|\n| ){0,12}") {
            let mistakes = check::<ContainerConfig>(text.as_bytes()).mistakes;
            proptest::prop_assert_eq!(mistakes.is_empty(), read::<ContainerConfig>(text.as_bytes()).is_ok());
            let parsed = text::parse::<ContainerConfig>(text.as_bytes());
            let fine = parsed.is_ok_and(|config| config.breaches().is_empty());
            proptest::prop_assert_eq!(mistakes.is_empty(), fine);
        }
    }
}
