//! Who has which device: what one container has for itself, no other one gets (runtime.md 2.8, section 9
//! numbers 33 and 64). Only containers that run are in it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cml_bus::id::ContainerId;
use cml_sys::device::{Rule, Rules, Verdict};

use super::{
    Held,
    wanted::{Wanted, defaults},
};

/// The devices of all running containers.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<ContainerId, Account>>);

#[derive(Debug)]
struct Account {
    name: String,
    shared: Vec<Rule>,
    own: Vec<Rule>,
}

/// What a container gets.
#[derive(Debug)]
pub struct Claimed {
    /// What it may do.
    pub rules: Rules,
    /// What it wanted and did not get.
    pub warnings: Vec<String>,
}

impl Ledger {
    fn accounts(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the account of a container that is about to run. A device that somebody else uses cannot be had
    /// for oneself, which is an error; one that somebody else has for himself is left out of what is shared,
    /// with a warning.
    pub fn claim(&self, id: ContainerId, name: &str, wanted: &Wanted) -> Result<Claimed, String> {
        let mut accounts = self.accounts();
        for rule in &wanted.own {
            if let Some(common) = defaults().find(|common| common.overlaps(rule)) {
                return Err(format!(
                    "assign_dev `{rule}`: every container may use `{common}`, so nobody can have it alone"
                ));
            }
            available(&accounts, id, rule)?;
        }
        let mut warnings = Vec::new();
        let mut rules: Rules = defaults().map(Verdict::Allow).collect();
        for rule in &wanted.shared {
            rules.push(Verdict::Allow(*rule));
        }
        for (_, other) in others(&accounts, id) {
            for taken in &other.own {
                let meets = wanted.shared.iter().find(|rule| rule.overlaps(taken));
                if let Some(rule) = meets {
                    rules.push(Verdict::Deny(*taken));
                    warnings.push(format!(
                        "allow_dev `{rule}`: container `{}` has `{taken}` for itself; it is left out",
                        other.name
                    ));
                }
            }
        }
        for rule in &wanted.own {
            rules.push(Verdict::Allow(*rule));
        }
        let account = Account {
            name: name.to_owned(),
            shared: wanted.shared.clone(),
            own: wanted.own.clone(),
        };
        accounts.insert(id, account);
        Ok(Claimed { rules, warnings })
    }

    /// Sets the account of a container that runs already.
    pub fn restore(&self, id: ContainerId, name: &str, held: &Held) {
        let account = Account {
            name: name.to_owned(),
            shared: held.shared.clone(),
            own: held.own.clone(),
        };
        self.accounts().insert(id, account);
    }

    /// Gives a running container something more.
    pub fn grant(&self, id: ContainerId, own: bool, rule: Rule) -> Result<(), String> {
        let mut accounts = self.accounts();
        match own {
            true => available(&accounts, id, &rule)?,
            false => {
                let taken = others(&accounts, id)
                    .find(|(_, other)| other.own.iter().any(|taken| taken.overlaps(&rule)));
                if let Some((_, holder)) = taken {
                    return Err(format!(
                        "container `{}` has a device of `{rule}` for itself; stop it first",
                        holder.name
                    ));
                }
            }
        }
        if let Some(account) = accounts.get_mut(&id) {
            let list = match own {
                true => &mut account.own,
                false => &mut account.shared,
            };
            if !list.contains(&rule) {
                list.push(rule);
            }
        }
        Ok(())
    }

    /// The container has ended.
    pub fn release(&self, id: ContainerId) {
        self.accounts().remove(&id);
    }
}

fn others(
    accounts: &BTreeMap<ContainerId, Account>,
    id: ContainerId,
) -> impl Iterator<Item = (&ContainerId, &Account)> {
    accounts.iter().filter(move |(other, _)| **other != id)
}

/// Whether nobody else uses any device of a rule.
fn available(
    accounts: &BTreeMap<ContainerId, Account>,
    id: ContainerId,
    rule: &Rule,
) -> Result<(), String> {
    for (_, other) in others(accounts, id) {
        let used = other.own.iter().chain(&other.shared);
        if let Some(used) = used.into_iter().find(|used| used.overlaps(rule)) {
            return Err(format!(
                "`{rule}` cannot be assigned: container `{}` uses `{used}`; stop it first",
                other.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::device::{Access, Device, Kind};

    use super::*;

    fn wanted(shared: &[&str], own: &[&str]) -> Wanted {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Wanted {
            shared: rules(shared),
            own: rules(own),
            usb: Vec::new(),
        }
    }

    fn may_read(claimed: &Claimed, major: u32, minor: u32) -> bool {
        let device = Device {
            kind: Kind::Char,
            major,
            minor,
        };
        claimed.rules.permits(device, Access::READ)
    }

    #[test]
    fn what_one_has_for_itself_the_next_is_told_who_has_it() {
        let ledger = Ledger::default();
        let (a, b) = (ContainerId::random(), ContainerId::random());
        ledger.claim(a, "first", &wanted(&[], &["c 4:64"])).unwrap();
        let error = ledger
            .claim(b, "second", &wanted(&[], &["c 4:*"]))
            .unwrap_err();
        assert!(
            error.contains("container `first` uses `c 4:64 rwm`"),
            "{error}"
        );
        // Of the other kind there is nothing in common.
        ledger
            .claim(b, "second", &wanted(&[], &["b 4:64"]))
            .unwrap();
        ledger.release(a);
        ledger.claim(b, "second", &wanted(&[], &["c 4:*"])).unwrap();
    }

    #[test]
    fn what_others_share_cannot_be_had_alone() {
        let ledger = Ledger::default();
        let (a, b) = (ContainerId::random(), ContainerId::random());
        ledger.claim(a, "first", &wanted(&["c 10:*"], &[])).unwrap();
        assert!(
            ledger
                .claim(b, "second", &wanted(&[], &["c 10:235"]))
                .is_err()
        );
        assert!(ledger.grant(b, true, "c 10:235".parse().unwrap()).is_err());
        let error = ledger
            .claim(b, "second", &wanted(&[], &["a *:*"]))
            .unwrap_err();
        assert!(error.contains("every container may use"), "{error}");
    }

    #[test]
    fn a_wildcard_leaves_out_what_another_one_has_and_says_so() {
        let ledger = Ledger::default();
        let (a, b) = (ContainerId::random(), ContainerId::random());
        ledger
            .claim(a, "first", &wanted(&[], &["c 10:235"]))
            .unwrap();
        let claimed = ledger
            .claim(b, "second", &wanted(&["c 10:*"], &[]))
            .unwrap();
        assert!(
            claimed.warnings[0].contains("`first`"),
            "{:?}",
            claimed.warnings
        );
        assert!(!may_read(&claimed, 10, 235));
        assert!(may_read(&claimed, 10, 234));
        let error = ledger
            .grant(b, false, "c 10:235 r".parse().unwrap())
            .unwrap_err();
        assert!(error.contains("`first`"), "{error}");
        ledger.release(a);
        ledger
            .grant(b, false, "c 10:235 r".parse().unwrap())
            .unwrap();
    }

    #[test]
    fn a_wildcard_over_the_default_list_counts() {
        // runtime.md 9, number 33: the existing system drops such a rule.
        let ledger = Ledger::default();
        let all = ledger
            .claim(ContainerId::random(), "x", &wanted(&["a *:*"], &[]))
            .unwrap();
        assert!(may_read(&all, 4, 64) && may_read(&all, 1, 3));
    }
}
