//! Rules about devices (runtime.md 2.8): one engine for the kernel's filter, for `/dev`, and for every question
//! whether a container may use something (runtime.md 9, numbers 14 and 33).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which of the two kinds of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `c`
    Char,
    /// `b`
    Block,
}

/// One device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Character or block.
    pub kind: Kind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            Kind::Char => 'c',
            Kind::Block => 'b',
        };
        write!(f, "{letter} {}:{}", self.major, self.minor)
    }
}

/// What may be done with a device: a set of rights with the numbers that the kernel has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access(u8);

impl Access {
    /// Make its node.
    pub const MAKE: Self = Self(1);
    /// Open it for reading.
    pub const READ: Self = Self(2);
    /// Open it for writing.
    pub const WRITE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// As in linux/bpf.h, `BPF_DEVCG_ACC_*`.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits; others mean nothing.
    pub fn of_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// What is in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this one alone.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (right, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MAKE, "m")] {
            if !self.and(right).is_empty() {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Some devices, and rights to them; `None` stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With this major number.
    pub major: Option<u32>,
    /// With this minor number.
    pub minor: Option<u32>,
    /// These rights.
    pub access: Access,
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "device rule {0:?}: write it as `c 10:200 rwm`: c, b or a, then major:minor with * for all, then some of r, w, m"
)]
pub struct BadRule(pub String);

/// The kernel's numbers have 12 and 20 bits.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

impl Rule {
    /// All rights to one device.
    pub fn of(device: Device) -> Self {
        Self {
            kind: Some(device.kind),
            major: Some(device.major),
            minor: Some(device.minor),
            access: Access::ALL,
        }
    }

    /// The device, if it is about one alone.
    pub fn device(&self) -> Option<Device> {
        Some(Device {
            kind: self.kind?,
            major: self.major?,
            minor: self.minor?,
        })
    }

    /// Whether it is about this device.
    pub fn covers(&self, device: Device) -> bool {
        self.kind.is_none_or(|kind| kind == device.kind)
            && self.major.is_none_or(|major| major == device.major)
            && self.minor.is_none_or(|minor| minor == device.minor)
    }

    /// Whether it is about everything that the other one is about, whatever the rights.
    fn contains(&self, other: &Self) -> bool {
        fn part<T: PartialEq>(mine: Option<T>, theirs: Option<T>) -> bool {
            mine.is_none() || mine == theirs
        }
        part(self.kind, other.kind)
            && part(self.major, other.major)
            && part(self.minor, other.minor)
    }

    /// The devices that both are about, with all rights.
    fn meet(&self, other: &Self) -> Option<Self> {
        fn part<T: PartialEq>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
            match (a, b) {
                (Some(a), Some(b)) => (a == b).then_some(Some(a)),
                (a, b) => Some(a.or(b)),
            }
        }
        Some(Self {
            kind: part(self.kind, other.kind)?,
            major: part(self.major, other.major)?,
            minor: part(self.minor, other.minor)?,
            access: Access::ALL,
        })
    }

    /// Whether there can be a device that both are about. The rights do not matter: who has a device for
    /// himself shares no part of it.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.meet(other).is_some()
    }

    /// Reads a rule; one without rights is allowed and means `none`.
    fn parse(text: &str, none: Access) -> Result<Self, BadRule> {
        let bad = || BadRule(text.to_owned());
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(numbers)) = (words.next(), words.next()) else {
            return Err(bad());
        };
        let letters = words.next();
        if words.next().is_some() {
            return Err(bad());
        }
        let kind = match kind {
            "c" => Some(Kind::Char),
            "b" => Some(Kind::Block),
            "a" => None,
            _ => return Err(bad()),
        };
        let number = |text: &str, most: u32| match text {
            "*" => Ok(None),
            // No sign, which the parser of numbers would take.
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let number = digits.parse().map_err(|_| bad())?;
                (number <= most).then_some(Some(number)).ok_or_else(bad)
            }
            _ => Err(bad()),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
        let right = |letter| match letter {
            'r' => Ok(Access::READ),
            'w' => Ok(Access::WRITE),
            'm' => Ok(Access::MAKE),
            _ => Err(bad()),
        };
        let access = match letters {
            None => none,
            Some(letters) => letters.chars().try_fold(Access::NONE, |all, letter| {
                right(letter).map(|right| all.or(right))
            })?,
        };
        Ok(Self {
            kind,
            major: number(major, MAJOR_MAX)?,
            minor: number(minor, MINOR_MAX)?,
            access,
        })
    }
}

/// As configurations have it: no rights stand for all.
impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        Self::parse(text, Access::ALL)
    }
}

impl TryFrom<String> for Rule {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            Some(Kind::Char) => 'c',
            Some(Kind::Block) => 'b',
            None => 'a',
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, "{letter} {major}:{minor} {}", self.access)
    }
}

/// A rule with what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Verdict {
    /// May be used.
    Allow(Rule),
    /// May not.
    Deny(Rule),
}

impl Verdict {
    /// What it is about.
    pub fn rule(&self) -> &Rule {
        match self {
            Self::Allow(rule) | Self::Deny(rule) => rule,
        }
    }

    fn rule_mut(&mut self) -> &mut Rule {
        match self {
            Self::Allow(rule) | Self::Deny(rule) => rule,
        }
    }
}

/// As the command `dev_access` has it: `allow c 10:200 rw` or `deny c 10:200 w`. Without the first word, rights
/// allow and no rights deny everything (protocol.md 3.7).
impl FromStr for Verdict {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let text = text.trim();
        let bad = |_| BadRule(text.to_owned());
        if let Some(rule) = text.strip_prefix("allow ") {
            return rule.parse().map(Self::Allow).map_err(bad);
        }
        if let Some(rule) = text.strip_prefix("deny ") {
            return rule.parse().map(Self::Deny).map_err(bad);
        }
        let rule = Rule::parse(text, Access::NONE)?;
        Ok(match rule.access.is_empty() {
            true => Self::Deny(Rule {
                access: Access::ALL,
                ..rule
            }),
            false => Self::Allow(rule),
        })
    }
}

impl TryFrom<String> for Verdict {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        text.parse()
    }
}

impl From<Verdict> for String {
    fn from(verdict: Verdict) -> Self {
        verdict.to_string()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(rule) => write!(f, "allow {rule}"),
            Self::Deny(rule) => write!(f, "deny {rule}"),
        }
    }
}

/// What a container may do with which device. For every right the last verdict that is about the device
/// decides; where there is none, it is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules(Vec<Verdict>);

impl Rules {
    /// Adds a verdict, which counts more than all before it. What it makes meaningless is forgotten, so that
    /// a list that is changed for ever does not grow for ever.
    pub fn push(&mut self, verdict: Verdict) {
        let new = *verdict.rule();
        if new.access.is_empty() {
            return;
        }
        for earlier in &mut self.0 {
            let rule = earlier.rule_mut();
            if new.contains(rule) {
                rule.access = rule.access.without(new.access);
            }
        }
        self.0.retain(|earlier| !earlier.rule().access.is_empty());
        self.0.push(verdict);
    }

    /// The verdicts, the weakest first.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.0
    }

    /// All rights to a device.
    pub fn granted(&self, device: Device) -> Access {
        let about = self.0.iter().filter(|one| one.rule().covers(device));
        about.fold(Access::NONE, |all, one| match one {
            Verdict::Allow(rule) => all.or(rule.access),
            Verdict::Deny(rule) => all.without(rule.access),
        })
    }

    /// Whether all of these rights are there.
    pub fn permits(&self, device: Device, access: Access) -> bool {
        access.without(self.granted(device)).is_empty()
    }

    /// The same as a list that only allows, which is all that version 1 of the kernel's controller knows: a
    /// request is granted if one entry has all of its rights.
    ///
    /// # Errors
    /// Something is denied out of the middle of what a wildcard allows.
    pub fn exceptions(&self) -> Result<Vec<Rule>, Inexpressible> {
        // With every two patterns the one for what they have in common, so that for each device one entry
        // is the most exact.
        let mut patterns: Vec<Rule> = Vec::new();
        for verdict in &self.0 {
            let pattern = Rule {
                access: Access::ALL,
                ..*verdict.rule()
            };
            let common: Vec<_> = patterns
                .iter()
                .filter_map(|one| one.meet(&pattern))
                .collect();
            patterns.push(pattern);
            patterns.extend(common);
            patterns.sort_unstable();
            patterns.dedup();
        }
        let granted = |pattern: &Rule| {
            let about = self.0.iter().filter(|one| one.rule().contains(pattern));
            about.fold(Access::NONE, |all, one| match one {
                Verdict::Allow(rule) => all.or(rule.access),
                Verdict::Deny(rule) => all.without(rule.access),
            })
        };
        let all: Vec<Rule> = patterns
            .iter()
            .map(|pattern| Rule {
                access: granted(pattern),
                ..*pattern
            })
            .collect();
        for wide in &all {
            let taken = |narrow: &&Rule| {
                wide.contains(narrow) && !wide.access.without(narrow.access).is_empty()
            };
            if let Some(narrow) = all.iter().find(taken) {
                return Err(Inexpressible {
                    narrow: *narrow,
                    wide: *wide,
                });
            }
        }
        let mut all: Vec<_> = all.into_iter().flat_map(kinds).collect();
        all.retain(|rule| !rule.access.is_empty());
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

/// The kernel takes `a` for everything, whatever numbers follow it.
fn kinds(rule: Rule) -> Vec<Rule> {
    match rule.kind {
        Some(_) => vec![rule],
        None => [Kind::Char, Kind::Block]
            .map(|kind| Rule {
                kind: Some(kind),
                ..rule
            })
            .into(),
    }
}

impl FromIterator<Verdict> for Rules {
    fn from_iter<I: IntoIterator<Item = Verdict>>(verdicts: I) -> Self {
        let mut rules = Self::default();
        for verdict in verdicts {
            rules.push(verdict);
        }
        rules
    }
}

/// What version 1 of the device controller cannot keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "version 1 of the device controller, which is all that this machine has, cannot take `{narrow}` \
     out of `{wide}`; allow the single devices instead of the wildcard"
)]
pub struct Inexpressible {
    narrow: Rule,
    wide: Rule,
}

#[cfg(test)]
pub(crate) mod tests;
