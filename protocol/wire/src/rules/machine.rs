//! Words about parts of a machine: processors, devices.

use std::collections::BTreeSet;

/// The kernel's largest number of processors is 8192.
const PROCESSORS_MAX: u32 = 8192;
/// The kernel's numbers of devices have 12 and 20 bits.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// The processors of a list such as `0-1,3`, as in cpuset(7); `None` if it is none.
#[must_use]
pub fn processors(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.split(',') {
        let number = |text: &str| number(text).filter(|number| *number < PROCESSORS_MAX);
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// What is wrong with a device rule (runtime.md 2.8).
#[must_use]
pub fn device(rule: &str) -> Option<String> {
    let words: Vec<_> = rule.split_ascii_whitespace().collect();
    let good = match words.as_slice() {
        [kind, numbers] => is_kind(kind) && are_numbers(numbers),
        [kind, numbers, rights] => {
            let known = |letter| matches!(letter, 'r' | 'w' | 'm');
            is_kind(kind) && are_numbers(numbers) && rights.chars().all(known)
        }
        _ => false,
    };
    (!good).then(|| {
        format!(
            "{rule:?} is no device rule such as `c 10:200 rwm`: c, b or a, then major:minor with * for all, then \
             some of r, w, m"
        )
    })
}

fn is_kind(word: &str) -> bool {
    matches!(word, "c" | "b" | "a")
}

fn are_numbers(word: &str) -> bool {
    let within =
        |text: &str, most| text == "*" || number(text).is_some_and(|number| number <= most);
    word.split_once(':')
        .is_some_and(|(major, minor)| within(major, MAJOR_MAX) && within(minor, MINOR_MAX))
}

/// Digits alone; the parser of numbers would take a sign.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// What is wrong with the identity of a USB device (runtime.md 6.2).
#[must_use]
pub fn usb(id: &str) -> Option<String> {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain && u16::from_str_radix(digits, 16).is_ok()
    };
    let good = id
        .split_once(':')
        .is_some_and(|(vendor, product)| number(vendor) && number(product));
    (!good).then(|| format!("{id:?} is not `vendor:product` in hexadecimal, such as `1d6b:0002`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_numbers_and_ranges() {
        assert_eq!(processors("0-2,5"), Some(BTreeSet::from([0, 1, 2, 5])));
        for bad in ["", "all", "1-0", "0,", ",", "-1", "0--1", "0-99999", "+1"] {
            assert_eq!(processors(bad), None, "{bad}");
        }
    }

    #[test]
    fn device_rules_and_usb_identities_have_their_form() {
        for good in ["c 1:3", "b  8:* mr", "a *:* rwm", "c 4095:1048575"] {
            assert_eq!(device(good), None);
        }
        for bad in [
            "",
            "c",
            "c 1",
            "x 1:3",
            "c 1:3 rx",
            "c 1:3 r w",
            "c +1:3",
            "c 4096:0",
        ] {
            assert!(device(bad).is_some(), "{bad}");
        }
        assert_eq!(usb("0x0627:1"), None);
        for bad in ["", ":", "1d6b:", "1:2:3", "10000:1", "g:1"] {
            assert!(usb(bad).is_some(), "{bad}");
        }
    }
}
