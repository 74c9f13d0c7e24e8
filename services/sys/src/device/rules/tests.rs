#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn rules(texts: &[&str]) -> Rules {
    let verdict = |text: &&str| match text.starts_with("deny") {
        true => text.parse().unwrap(),
        false => Verdict::Allow(text.parse().unwrap()),
    };
    texts.iter().map(verdict).collect()
}

fn device(kind: Kind, major: u32, minor: u32) -> Device {
    Device { kind, major, minor }
}

#[test]
fn rules_are_read_as_the_existing_system_writes_them() {
    for (text, shown) in [
        ("c 10:200 rwm", "c 10:200 rwm"),
        ("c 136:*", "c 136:* rwm"),
        ("b  8:* mr", "b 8:* rm"),
        ("a *:* rwm", "a *:* rwm"),
        ("  c *:3 w ", "c *:3 w"),
        ("c 4095:1048575", "c 4095:1048575 rwm"),
    ] {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), shown);
    }
    for bad in [
        "",
        "c",
        "c 1",
        "c 1:",
        "c :1",
        "x 1:3",
        "c 1:3 rwx",
        "c 1:3 r w",
        "c +1:3",
        "c -1:3",
        "c 4096:0",
        "c 0:1048576",
        "c 0x1:3",
        "c 1:3:4",
        "c 99999999999:1",
        "c **:3",
    ] {
        let error = bad.parse::<Rule>().unwrap_err().to_string();
        assert!(error.contains("c 10:200 rwm"), "{bad}: {error}");
    }
}

#[test]
fn a_change_of_access_says_what_it_does_or_follows_the_old_rule() {
    for (text, shown) in [
        ("c 4:2 rwm", "allow c 4:2 rwm"),
        ("c 4:2 r", "allow c 4:2 r"),
        ("c 4:2", "deny c 4:2 rwm"),
        ("allow c 4:2", "allow c 4:2 rwm"),
        ("deny c 4:2 w", "deny c 4:2 w"),
    ] {
        assert_eq!(text.parse::<Verdict>().unwrap().to_string(), shown);
    }
    assert!("allow".parse::<Verdict>().is_err());
    assert!("revoke c 4:2".parse::<Verdict>().is_err());
}

#[test]
fn wildcards_and_exact_numbers_add_up_and_later_words_win() {
    let rules = rules(&[
        "c 1:3 r",
        "c *:3 w",
        "a 10:*",
        "deny c 10:5 w",
        "deny b 10:*",
    ]);
    let all = Access::READ.or(Access::WRITE);
    assert!(rules.permits(device(Kind::Char, 1, 3), all));
    assert!(!rules.permits(device(Kind::Char, 1, 3), Access::MAKE));
    assert!(!rules.permits(device(Kind::Block, 1, 3), Access::READ));
    assert!(rules.permits(device(Kind::Char, 10, 4), Access::ALL));
    assert!(rules.permits(device(Kind::Char, 10, 5), Access::READ));
    assert!(!rules.permits(device(Kind::Char, 10, 5), all));
    assert!(!rules.permits(device(Kind::Block, 10, 4), Access::READ));
}

#[test]
fn a_device_is_overlapped_by_wildcards_of_its_kind_only() {
    let overlap = |a: &str, b: &str| {
        let (a, b): (Rule, Rule) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(a.overlaps(&b), b.overlaps(&a));
        a.overlaps(&b)
    };
    assert!(overlap("c 5:2", "c 5:2 r"));
    assert!(!overlap("b 5:2", "c 5:2"));
    assert!(overlap("a 5:*", "b *:2"));
    assert!(!overlap("c 5:*", "c 6:*"));
    assert!(overlap("a *:*", "b 8:1"));
}

#[test]
fn a_list_that_is_changed_for_ever_stays_short() {
    let mut rules = rules(&["c 1:3", "c 5:*"]);
    for _ in 0..1000 {
        rules.push("deny c 5:7 w".parse().unwrap());
        rules.push("allow c 5:7".parse().unwrap());
    }
    assert_eq!(rules.verdicts().len(), 3);
}

#[test]
fn records_keep_rules_as_text() {
    let rules = rules(&["c 1:3 r", "deny c 1:5"]);
    let text = serde_json::to_string(&rules).unwrap();
    assert_eq!(text, r#"["allow c 1:3 r","deny c 1:5 rwm"]"#);
    assert_eq!(serde_json::from_str::<Rules>(&text).unwrap(), rules);
}

#[test]
fn version_1_gets_the_same_or_a_clear_no() {
    let list = |texts: &[&str]| {
        let list = rules(texts).exceptions();
        list.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        list(&["c 1:3 r", "c *:3 w"]).unwrap(),
        ["c *:3 w", "c 1:3 rw"]
    );
    assert_eq!(list(&["a *:*"]).unwrap(), ["c *:* rwm", "b *:* rwm"]);
    assert_eq!(list(&["c 1:3", "deny c 1:3"]).unwrap(), [""; 0]);
    let error = list(&["c 1:*", "deny c 1:3 w"]).unwrap_err().to_string();
    assert!(error.contains("`c 1:3 rm` out of `c 1:* rwm`"), "{error}");
}

/// Few numbers, so that rules meet.
pub(crate) fn verdict() -> impl Strategy<Value = Verdict> {
    let number = || prop::option::of(0_u32..4);
    let kind = prop::option::of(prop::sample::select(vec![Kind::Char, Kind::Block]));
    (any::<bool>(), kind, number(), number(), 1_u8..8).prop_map(
        |(allow, kind, major, minor, bits)| {
            let access = Access::of_bits(bits);
            let rule = Rule {
                kind,
                major,
                minor,
                access,
            };
            match allow {
                true => Verdict::Allow(rule),
                false => Verdict::Deny(rule),
            }
        },
    )
}

/// Every class of requests that rules with numbers below 4 can tell apart; 4 stands for all others.
pub(crate) fn requests() -> impl Iterator<Item = (Device, Access)> {
    let kinds = [Kind::Char, Kind::Block].into_iter();
    let devices = kinds.flat_map(|kind| {
        (0..5).flat_map(move |major| (0..5).map(move |minor| device(kind, major, minor)))
    });
    devices.flat_map(|device| (1..8).map(move |bits| (device, Access::of_bits(bits))))
}

/// The sentence of the documentation, right by right: the last verdict about it decides.
pub(crate) fn model(verdicts: &[Verdict], device: Device, access: Access) -> bool {
    [Access::MAKE, Access::READ, Access::WRITE]
        .into_iter()
        .filter(|right| !right.and(access).is_empty())
        .all(|right| {
            let about = |one: &&Verdict| {
                one.rule().covers(device) && !one.rule().access.and(right).is_empty()
            };
            matches!(verdicts.iter().rev().find(about), Some(Verdict::Allow(_)))
        })
}

proptest! {
    #[test]
    fn for_every_right_the_last_verdict_decides(verdicts in prop::collection::vec(verdict(), 0..12)) {
        let rules: Rules = verdicts.iter().copied().collect();
        for (device, access) in requests() {
            prop_assert_eq!(
                rules.permits(device, access),
                model(&verdicts, device, access),
                "{} {}", device, access
            );
        }
    }

    #[test]
    fn the_list_for_version_1_grants_exactly_the_same(
        verdicts in prop::collection::vec(verdict(), 0..8),
    ) {
        let rules: Rules = verdicts.iter().copied().collect();
        if let Ok(list) = rules.exceptions() {
            for (device, access) in requests() {
                let granted = list.iter().any(|one| {
                    one.covers(device) && access.without(one.access).is_empty()
                });
                prop_assert_eq!(granted, rules.permits(device, access), "{} {}", device, access);
            }
        } else {
            prop_assert!(verdicts.iter().any(|one| matches!(one, Verdict::Deny(_))));
        }
    }

    #[test]
    fn what_is_shown_is_read_back(verdict in verdict()) {
        prop_assert_eq!(verdict.to_string().parse::<Verdict>().unwrap(), verdict);
    }
}
