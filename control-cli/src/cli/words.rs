//! Spellings of old scripts.

use std::ffi::OsString;

/// Old spellings become the ones that the parser knows: command words in any case (protocol.md 4.1), and
/// a value attached to `-k` without `=` (protocol.md 4.3).
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    let Some(at) = command_word(&args) else {
        return args;
    };
    args[at].make_ascii_lowercase();
    if args[at] == "start" || args[at] == "stop" {
        let mut options = args[at + 1..].iter_mut().take_while(|word| *word != "--");
        for word in options.by_ref() {
            let attached = word.to_str().and_then(|word| word.strip_prefix("-k"));
            if let Some(key) = attached.filter(|key| !key.is_empty()) {
                *word = format!("--key={}", key.strip_prefix('=').unwrap_or(key)).into();
            }
        }
    }
    args
}

fn command_word(args: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = args.get(at)?.to_string_lossy();
        at += match &*word {
            "-s" | "--socket" | "--format" => 2,
            word if word.starts_with('-') => 1,
            _ => return Some(at),
        };
    }
}
