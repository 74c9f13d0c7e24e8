//! Spellings of old scripts.

use std::ffi::OsString;

/// Commands that existing scripts give a key (protocol.md 4.3).
const WITH_KEY: [&str; 9] = [
    "start",
    "stop",
    "remove",
    "wipe",
    "freeze",
    "unfreeze",
    "ifaces",
    "allow_audio",
    "deny_audio",
];

/// Old spellings become the ones that the parser knows: command words in any case (protocol.md 4.1), and
/// a value attached to `-k` without `=` (protocol.md 4.3).
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    let Some(at) = command_word(&args) else {
        return args;
    };
    args[at].make_ascii_lowercase();
    let asks_for_help = |word: &OsString| word == "--help" || word == "-h";
    if args[at] == "help" && args.get(at + 1).is_some_and(asks_for_help) {
        // Help about help is the help.
        args.truncate(at + 1);
    }
    let command = args[at].to_string_lossy().replace('-', "_");
    if WITH_KEY.contains(&&*command) {
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

/// Whether words that could not be understood ask for JSON.
pub fn wants_json(args: &[OsString]) -> bool {
    let apart = args
        .windows(2)
        .any(|pair| pair[0] == "--format" && pair[1] == "json");
    apart || args.iter().any(|word| word == "--format=json")
}
