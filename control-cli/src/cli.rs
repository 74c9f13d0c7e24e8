//! The command line: words, options, help (protocol.md 4.1, 4.3).

use std::{env, ffi::OsString, fmt, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use cml_wire::paths::CONTROL_SOCKET;
use zeroize::Zeroizing;

/// Overrides [`CONTROL_SOCKET`].
pub const SOCKET_VARIABLE: &str = "CML_SOCKET";

const MORE_HELP: &str = "\
<CONTAINER> is a name or a UUID. Of several with the same name the first of `list` is meant.
Command names may be written in any case, and with dashes: `list-guestos`.

Examples:
  control list                            all containers and their state
  control create web.conf web.sig web.cert
  control start web                       asks for the PIN
  control start web --key=1234            does not ask
  printf '1234\\n' | control start web     nor does this
  control start web --setup               root tree at /setup, to install into
  control run web sh                      a shell in a terminal
  tar c . | control run -T web tar x      bytes in, bytes out
  control --format json list              for programs

Environment:
  CML_SOCKET  the control socket, if -s is not given

Exit status:
  0    done
  1    the daemon refused the command or could not carry it out; `check` found a mistake
  2    wrong usage
  125  the daemon cannot be reached
  `run` ends with the status of its command, 128 + n if signal n ended it.";

const START_HELP: &str = "\
Examples:
  control start web
  control start web --key=1234    the key is visible to other users of this machine while it runs
  control start web -k1234
  control start web --setup";

const CHANGE_PIN_HELP: &str = "\
A container uses the PIN of the device until it gets one of its own: the current PIN is then
that of the device.

Examples:
  control change_pin                      the device; its first PIN is `trustme`
  control change_pin web                  a PIN of its own for `web`, or another one
  printf 'old\\nnew\\nnew\\n' | control change_pin web";

const CERTIFICATE_HELP: &str = "\
Possible until the device is provisioned.

Examples:
  control pull_csr device.csr
  control ca_register device_rootca.cert  if the daemon shall check who signed
  control push_cert device.cert";

const LOGS_HELP: &str = "\
A file that is in the directory already is replaced if the new one continues it; else the new
one gets a number.

Examples:
  control retrieve_logs /tmp/logs
  control retrieve_logs /tmp/logs --remove";

const PUSH_HELP: &str = "\
The images come from `update_base_url` of the configuration, else of device.conf:
  <url>/operatingsystems/<x86|arm|riscv>/<name>-<version>/<image_file>.img
over https://, http:// or from a directory: file:///path, or file://path below the root of
whoever pushes. What is there already is not fetched again. Containers get a newer version
when the device or the daemon is started again, or at a `reload`.

Example:
  control push_guestos_config busybox-2.conf busybox-2.sig busybox-2.cert";

const IFACE_HELP: &str = "\
The interface is named as on the host, as in the container when it is taken away, or by its MAC
address. A container that does not run needs --persistent.

Examples:
  control assign_iface --iface eth1 web
  control assign_iface web --iface 02:fc:00:00:00:01 --persistent
  control unassign_iface --iface eth1 web --persistent";

const CA_HELP: &str = "\
Registering a CA twice changes nothing. `ca_list` shows the CAs, `ca_remove` removes one.

Example:
  control ca_register rootca.cert";

const CHECK_HELP: &str = "\
Every mistake is shown with its line and column, on standard output. Whether a guest OS is
installed or a signature is good only the daemon can tell.

Examples:
  control check web.conf
  control check --kind device /etc/cml/device.conf
  control check *.conf && control create web.conf";

const AUDIT_HELP: &str = "\
Nothing is recorded unless device.conf has an `audit_size`.

Examples:
  control audit list
  control audit list web -n 20
  control audit verify
  control --format json audit list";

const STATS_HELP: &str = "\
Memory does not count what the kernel can drop at once. A column is `-` where the device does
not count. With --format json there are counters since the start, and with --watch one
document a line.

Examples:
  control stats
  control stats web --watch=1";

const DEVICE_HELP: &str = "\
A rule is c, b or a (character, block, all), major:minor with * for all, and some of r, w, m
(read, write, make a node; none of them means all). Without `allow` or `deny` before it, a rule with
rights allows and one without rights denies. What is to last belongs into `allow_dev` or
`assign_dev` of the configuration.

Examples:
  control dev_access web allow c 10:200 rw
  control dev_access web deny c 10:200 w
  control dev_access web \"c 10:200 rwm\"
  control dev_access web \"c 10:200\"       denies";

const RUN_HELP: &str = "\
The command gets a terminal if standard input or standard output is one; else pipes, which
pass every byte unchanged and keep standard error apart. `nopty` before the command means -T.

Examples:
  control run web sh
  control run web nopty ls -l /
  control run -e LANG=C -w /srv web make
  control run -T web cat /etc/hostname > hostname
  control run -T web tar x < files.tar";

/// Administers containers and guest operating systems.
#[derive(Debug, Parser)]
#[command(name = "control", version, after_help = MORE_HELP, subcommand_required = true)]
#[command(arg_required_else_help = true, infer_subcommands = false)]
pub struct Cli {
    /// Control socket of the daemon [default: /run/socket/cml-control]
    #[arg(short, long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Form of the results: `auto` is `table` on a terminal, else `text`
    #[arg(long, value_enum, default_value_t = Format::Auto, global = true, value_name = "FORMAT")]
    pub format: Format,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Where the daemon listens: option, else environment, else the default.
    pub fn socket(&self) -> PathBuf {
        let from_environment = || env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        self.socket
            .clone()
            .or_else(|| from_environment().map(PathBuf::from))
            .unwrap_or_else(|| CONTROL_SOCKET.into())
    }
}

/// Form of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `table` on a terminal, else `text`
    Auto,
    /// Protobuf text, stable
    Text,
    /// One JSON document, stable
    Json,
    /// For people
    Table,
}

/// The commands. Wire names in protocol.md 4.3.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all containers with their state
    List {
        /// Also the system's own services
        #[arg(short, long)]
        system: bool,
        #[command(flatten)]
        ignored: Ignored,
    },
    /// List the configurations of all installed guest operating systems
    #[command(name = "list_guestos", visible_alias = "list-guestos")]
    ListGuestos(Ignored),
    /// Install or update a guest operating system; waits until its images are there
    #[command(name = "push_guestos_config", visible_alias = "push-guestos-config", after_help = PUSH_HELP)]
    PushGuestosConfig {
        /// Configuration in protobuf text
        conf: PathBuf,
        /// Signature of the configuration's bytes: raw (.sig) or CMS (.p7s)
        sig: PathBuf,
        /// Certificate of the signer, PEM
        cert: PathBuf,
    },
    /// Delete a guest operating system in all versions, unless a container uses it
    #[command(
        name = "remove_guestos",
        visible_alias = "remove-guestos",
        after_help = "Example:\n  control remove_guestos busybox"
    )]
    RemoveGuestos {
        /// Name, as `list_guestos` shows it
        name: String,
    },
    /// Trust another CA for guest operating systems and configurations
    #[command(name = "ca_register", visible_alias = "ca-register", after_help = CA_HELP)]
    CaRegister {
        /// PEM: a self-signed root, perhaps with the CAs below it
        cert: PathBuf,
    },
    /// List the trusted CAs
    #[command(name = "ca_list", visible_alias = "ca-list")]
    CaList(Ignored),
    /// Trust a registered CA no longer; what it vouched for is not started again
    #[command(
        name = "ca_remove",
        visible_alias = "ca-remove",
        after_help = "Examples:\n  control ca_remove 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12\n  control ca_remove local"
    )]
    CaRemove {
        /// Id, as `ca_list` shows it
        id: String,
    },
    /// Create a container with a new UUID from a configuration
    #[command(
        after_help = "Examples:\n  control create web.conf\n  control create web.conf web.sig web.cert"
    )]
    Create {
        /// Configuration in protobuf text; needs at least `name` and `guest_os`
        conf: PathBuf,
        /// Signature of the configuration's bytes
        #[arg(requires = "cert")]
        sig: Option<PathBuf>,
        /// Certificate of the signer, PEM
        cert: Option<PathBuf>,
    },
    /// Give a container another configuration; one that runs takes it when it has stopped
    #[command(name = "update_config", visible_alias = "update-config")]
    UpdateConfig {
        /// Name or UUID
        container: String,
        /// Configuration in protobuf text
        conf: PathBuf,
        /// Signature of the configuration's bytes
        #[arg(requires = "cert")]
        sig: Option<PathBuf>,
        /// Certificate of the signer, PEM
        cert: Option<PathBuf>,
    },
    /// Delete a container completely: configuration, data, keys
    Remove(Target),
    /// Delete what a container has stored, and its key; its configuration and its PIN stay
    Wipe(Target),
    /// Wipe all containers of the device
    #[command(name = "wipe_device", visible_alias = "wipe-device")]
    WipeDevice(Confirm),
    /// Fetch the certificate request of the device, for a CA to sign
    #[command(name = "pull_csr", visible_alias = "pull-csr", after_help = CERTIFICATE_HELP)]
    PullCsr {
        /// Where to write it, PEM
        file: PathBuf,
    },
    /// Store the certificate that a CA made for the device
    #[command(name = "push_cert", visible_alias = "push-cert", after_help = CERTIFICATE_HELP)]
    PushCert {
        /// Certificate of the device, then those of intermediate CAs, PEM
        file: PathBuf,
    },
    /// Put the device into provisioned mode, for good: only the life cycle of containers is left
    #[command(name = "set_provisioned", visible_alias = "set-provisioned")]
    SetProvisioned(Confirm),
    /// Stop all containers and reboot the device; a host is not rebooted
    Reboot(Confirm),
    /// Make everything on the device unreadable, by clearing its TPM
    #[command(name = "destroy_system", visible_alias = "destroy-system")]
    DestroySystem(Confirm),
    /// Show how full disks and memory of the device are
    #[command(name = "device_stats", visible_alias = "device-stats")]
    DeviceStats(Ignored),
    /// Fetch the log files of the device into a directory
    #[command(name = "retrieve_logs", visible_alias = "retrieve-logs", after_help = LOGS_HELP)]
    RetrieveLogs {
        /// An existing directory
        dir: PathBuf,
        /// Delete them on the device once they are stored; never the one that is being written
        #[arg(short, long)]
        remove: bool,
    },
    /// Start a container; asks for its PIN unless it needs none
    #[command(after_help = START_HELP)]
    Start {
        /// Name or UUID
        container: String,
        #[command(flatten)]
        key: Key,
        /// Mount the root tree at /setup instead of starting the system in it
        #[arg(short, long)]
        setup: bool,
    },
    /// Stop a container; asks for its PIN as start does
    Stop {
        /// Name or UUID
        container: String,
        #[command(flatten)]
        key: Key,
    },
    /// Change the PIN of a container, or of the device; asks for the old one and twice for the new one
    #[command(name = "change_pin", visible_alias = "change-pin", after_help = CHANGE_PIN_HELP)]
    ChangePin {
        /// Name or UUID; without it the PIN of the device is changed
        container: Option<String>,
    },
    /// Show the state of a container
    State(Target),
    /// Show the configuration of a container
    Config(Target),
    /// Load the configurations of all stopped containers again
    Reload(Ignored),
    /// Look for mistakes in configuration files, without a daemon
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Run a command in a container
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Suspend the processes of a container
    Freeze(Target),
    /// Let the processes of a frozen container go on
    Unfreeze(Target),
    /// Move a physical interface of the host into a container
    #[command(name = "assign_iface", visible_alias = "assign-iface", after_help = IFACE_HELP)]
    AssignIface(Interface),
    /// Bring a physical interface of a container home
    #[command(name = "unassign_iface", visible_alias = "unassign-iface", after_help = IFACE_HELP)]
    UnassignIface(Interface),
    /// List the network interfaces of a running container
    Ifaces(Target),
    /// Show what running containers use of the device
    #[command(after_help = STATS_HELP)]
    Stats {
        /// Name or UUID; without it all containers that run
        container: Option<String>,
        /// Go on showing, every 2 seconds or every SECONDS
        #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
              default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..=3600))]
        watch: Option<u32>,
    },
    /// Let a running container use devices, or forbid it, until it stops
    #[command(name = "dev_access", visible_alias = "dev-access", after_help = DEVICE_HELP)]
    DevAccess {
        /// Name or UUID
        container: String,
        /// `c 10:200 rw`, `allow c 10:200 rw` or `deny c 10:200`
        #[arg(required = true, value_name = "RULE")]
        rule: Vec<String>,
    },
    /// Let a container use the sound devices, at once and at its later starts
    #[command(name = "allow_audio", visible_alias = "allow-audio")]
    AllowAudio(Target),
    /// Take the sound devices from a container, at once and at its later starts
    #[command(name = "deny_audio", visible_alias = "deny-audio")]
    DenyAudio(Target),
    /// Tell whether the device is in provisioned mode
    #[command(name = "get_provisioned", visible_alias = "get-provisioned")]
    GetProvisioned(Ignored),
    /// Look at the audit log, or check that nobody has changed it
    #[command(after_help = AUDIT_HELP)]
    Audit {
        /// Which of the two
        #[command(subcommand)]
        what: Audit,
    },
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

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
    Verify(Ignored),
}

/// A container, and words after it that existing scripts pass and that mean nothing
/// (protocol.md 4.3: `remove NAME --key=PW`).
#[derive(Debug, Args)]
pub struct Target {
    /// Name or UUID
    pub container: String,
    #[command(flatten)]
    pub ignored: Ignored,
}

/// Words that mean nothing to the command (protocol.md 4.3).
#[derive(Debug, Args)]
pub struct Ignored {
    /// Never read.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// An interface and the container that it is for.
#[derive(Debug, Args)]
pub struct Interface {
    /// Name or UUID
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
    #[command(flatten)]
    pub ignored: Ignored,
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
    /// Name or UUID
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = line.split_whitespace().map(OsString::from);
        Cli::try_parse_from(normalise(words))
    }

    fn key(line: &str) -> Option<Option<String>> {
        match parse(line).unwrap().command {
            Command::Start { key, .. } | Command::Stop { key, .. } => key
                .key
                .map(|value| value.map(|Secret(text)| text.to_string())),
            other => panic!("{other:?}"),
        }
    }

    fn run(line: &str) -> Run {
        match parse(line).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_way_to_give_a_key_is_understood() {
        let given = Some(Some("x".to_owned()));
        assert_eq!(key("control start c --key=x"), given);
        assert_eq!(key("control start c -kx"), given);
        assert_eq!(key("control start c -k=x"), given);
        assert_eq!(key("control start -kx c"), given);
        assert_eq!(key("control stop --key=x c"), given);
        assert_eq!(key("control start c --key="), Some(Some(String::new())));
        assert_eq!(key("control start c --key --setup"), Some(None));
        assert_eq!(key("control start -k c"), Some(None));
        assert_eq!(key("control start c"), None);
    }

    #[test]
    fn a_key_is_never_printed() {
        let parsed = parse("control start c --key=geheim").unwrap();
        assert!(!format!("{parsed:?}").contains("geheim"));
    }

    #[test]
    fn setup_has_a_short_form_after_the_command() {
        let cli = parse("control -s /x start c -s").unwrap();
        assert_eq!(cli.socket(), PathBuf::from("/x"));
        assert!(matches!(cli.command, Command::Start { setup: true, .. }));
    }

    #[test]
    fn command_words_have_any_case_and_either_separator() {
        for line in [
            "control LIST_GUESTOS",
            "control --socket LIST list-guestos",
            "control --format json List_GuestOS",
        ] {
            assert!(matches!(
                parse(line).unwrap().command,
                Command::ListGuestos(_)
            ));
        }
    }

    #[test]
    fn words_that_mean_nothing_are_ignored() {
        for line in [
            "control remove c --key=pw",
            "control remove c --key=pw -x y",
            "control list c",
            "control list c --any",
            "control freeze c x",
            "control reload now",
        ] {
            parse(line).expect(line);
        }
        assert!(matches!(
            parse("control list -s").unwrap().command,
            Command::List { system: true, .. }
        ));
    }

    #[test]
    fn an_interface_is_named_before_or_after_its_container() {
        for line in [
            "control assign_iface --iface eth1 c --persistent",
            "control assign_iface c --iface eth1 -p",
            "control assign-iface -p c -ieth1",
            "control ASSIGN_IFACE --iface=eth1 -p c",
        ] {
            match parse(line).unwrap().command {
                Command::AssignIface(given) => {
                    assert_eq!((&*given.container, &*given.iface), ("c", "eth1"), "{line}");
                    assert!(given.persistent);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn wrong_usage_is_status_2_and_help_is_0() {
        for line in [
            "control",
            "control bogus",
            "control start",
            "control start c --bogus",
            "control create",
            "control assign_iface c",
            "control unassign_iface --iface eth1",
            "control create c.conf c.sig",
            "control run c",
            "control run -e novalue c ls",
            "control run -t -T c ls",
            "control --format xml list",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let help = parse("control --help").unwrap_err();
        assert_eq!(help.kind(), ErrorKind::DisplayHelp);
        assert_eq!(help.exit_code(), 0);
    }

    #[test]
    fn the_command_of_run_keeps_its_own_options() {
        let run = run("control run -e A=1 -w /srv -u web -e B=2 c ls -e -T -u --pty x");
        assert_eq!(run.env, ["A=1", "B=2"]);
        assert_eq!(run.workdir.as_deref(), Some("/srv"));
        assert_eq!(run.user.as_deref(), Some("web"));
        let (wish, argv) = run.split();
        assert_eq!(wish, PtyWish::Unsaid);
        assert_eq!(argv, ["ls", "-e", "-T", "-u", "--pty", "x"]);
    }

    #[test]
    fn nopty_counts_only_before_a_command() {
        let split = |line| {
            let run = run(line);
            let (wish, argv) = run.split();
            (wish, argv.join(" "))
        };
        assert_eq!(
            split("control run c nopty ls -l"),
            (PtyWish::No, "ls -l".into())
        );
        assert_eq!(
            split("control run c nopty"),
            (PtyWish::Unsaid, "nopty".into())
        );
        assert_eq!(
            split("control run c ls nopty"),
            (PtyWish::Unsaid, "ls nopty".into())
        );
        assert_eq!(split("control run -T c ls"), (PtyWish::No, "ls".into()));
        assert_eq!(split("control run -t c ls"), (PtyWish::Yes, "ls".into()));
    }
}
