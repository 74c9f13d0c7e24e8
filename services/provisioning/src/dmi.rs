//! What the machine calls itself: the common name of the device (crypto.md 4.2).

use std::path::Path;

/// Where the kernel shows what the firmware says.
const DMI: &str = "/sys/devices/virtual/dmi/id";

/// File, most characters, and what stands for a machine that says nothing.
const PARTS: [(&str, usize, &str); 2] = [
    ("product_name", 19, "generic"),
    ("product_serial", 39, "0000"),
];

/// `<product name> <serial number>` of this machine.
pub fn common_name() -> String {
    common_name_in(Path::new(DMI))
}

fn common_name_in(dir: &Path) -> String {
    let part = |(name, most, default): (&str, usize, &str)| {
        let bytes = cml_sys::file::read(&dir.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // Firmware says what it likes; a name in a certificate is printable ASCII.
        let text = text.chars().filter(|char| matches!(char, ' '..='~'));
        let text: String = text.collect::<String>().trim().chars().take(most).collect();
        match text.trim() {
            "" => default.to_owned(),
            some => some.to_owned(),
        }
    };
    PARTS.map(part).join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn a_machine_is_named_by_what_its_firmware_says_or_by_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(common_name_in(dir.path()), "generic 0000");
        fs::write(dir.path().join("product_name"), "Board\n").unwrap();
        fs::write(
            dir.path().join("product_serial"),
            format!(" {}\n", "7".repeat(99)),
        )
        .unwrap();
        let name = common_name_in(dir.path());
        assert_eq!(name, format!("Board {}", "7".repeat(39)));
        fs::write(dir.path().join("product_name"), b"\xff\x1b[2J\n\t").unwrap();
        assert!(common_name_in(dir.path()).starts_with("[2J "));
    }
}
