//! Arguments that several commands have, or that are many.

use std::{fmt, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use zeroize::Zeroizing;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Configurations in protobuf text; `-` is standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What they are [default: what each looks most like]
    #[arg(short, long, value_enum)]
    pub kind: Option<Kind>,
}

/// The kinds of configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Of a container, for `create` and `update_config`
    Container,
    /// Of a guest operating system, for `push_guestos_config`
    Guestos,
    /// Of the device: device.conf
    Device,
}

/// What may be asked of the audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List records of the device and of all containers, or of one
    List {
        /// Name, or UUID: that of a removed container, too, and zeros for the device alone
        container: Option<String>,
        /// At most so many records of each log, the newest
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1000)]
        last: u32,
    },
    /// Check that every log is what the daemon has written; exits with 1 if one is not
    Verify,
}

/// The socket, of commands whose `-s` means something else.
#[derive(Debug, Args)]
pub struct LongSocket {
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// A container, of commands that need no PIN.
#[derive(Debug, Args)]
pub struct Target {
    /// Name, UUID, or the first digits of the UUID, at least 8
    pub container: String,
    #[command(flatten)]
    pub unread: UnreadKey,
}

/// A PIN that existing scripts pass and that means nothing (protocol.md 4.3: `remove NAME --key=PW`).
#[derive(Debug, Args)]
pub struct UnreadKey {
    /// Never read.
    #[arg(short, long, hide = true, num_args = 0..=1, require_equals = true, value_parser = secret)]
    pub key: Option<Option<Secret>>,
}

/// A container that is about to lose something.
#[derive(Debug, Args)]
pub struct Doomed {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub confirm: Confirm,
}

/// An interface and the container that it is for.
#[derive(Debug, Args)]
pub struct Interface {
    /// Name, UUID, or the first digits of the UUID, at least 8
    pub container: String,
    /// Name or MAC address of the interface
    #[arg(short, long, value_name = "IFACE")]
    pub iface: String,
    /// Also in the stored configuration, for every start from now on
    #[arg(short, long)]
    pub persistent: bool,
}

/// Whether a person is asked first.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Do not ask, on a terminal
    #[arg(short, long)]
    pub yes: bool,
}

/// A PIN on the command line.
#[derive(Debug, Args)]
pub struct Key {
    /// Use this PIN instead of asking; without a value send none (-kPIN works too)
    #[arg(short, long, value_name = "PIN", num_args = 0..=1, require_equals = true, value_parser = secret)]
    pub key: Option<Option<Secret>>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// No terminal: pipes, standard error apart
    #[arg(short = 'T', long = "no-pty", conflicts_with = "pty")]
    pub no_pty: bool,
    /// A terminal, whatever the standard streams are
    #[arg(short = 't', long)]
    pub pty: bool,
    /// Additional environment variable; may be repeated
    #[arg(short, long, value_name = "KEY=VAL", value_parser = environment)]
    pub env: Vec<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User in the container, as its own files name it; default: its root
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Name, UUID, or the first digits of the UUID, at least 8
    pub container: String,
    /// The command with its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub words: Vec<String>,
}

/// What `run` was told about the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PtyWish {
    /// Nothing.
    Unsaid,
    /// `-t`
    Yes,
    /// `-T` or `nopty`
    No,
}

impl Run {
    /// The complete argument vector without the word `nopty`, and the wish for a terminal.
    pub fn split(&self) -> (PtyWish, &[String]) {
        let wish = match (self.pty, self.no_pty) {
            (true, _) => PtyWish::Yes,
            (_, true) => PtyWish::No,
            _ => PtyWish::Unsaid,
        };
        match self.words.split_first() {
            // `nopty` alone is a command of that name: there is nothing else to run.
            Some((first, rest)) if first == "nopty" && !rest.is_empty() => (PtyWish::No, rest),
            _ => (wish, &self.words),
        }
    }
}

/// Text that is wiped when dropped and never printed.
#[derive(Clone)]
pub struct Secret(pub Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature is clap's")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret(Zeroizing::new(text.to_owned())))
}

fn environment(text: &str) -> Result<String, &'static str> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        _ => Err("expected KEY=VAL"),
    }
}
