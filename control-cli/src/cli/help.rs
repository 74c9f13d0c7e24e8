//! What `--help` says beside the options.

pub(super) const MORE_HELP: &str = "\
<CONTAINER> is a name, a UUID, or the first digits of a UUID, at least 8. Of several with the same
name the first of `list` is meant, with a warning; on a terminal commands that change something ask
for the UUID instead. Command names may be written in any case, and with dashes: `list-guestos`.

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

pub(super) const START_HELP: &str = "\
Examples:
  control start web
  control start web --key=1234    the key is visible to other users of this machine while it runs
  control start web -k1234
  control start web --setup";

pub(super) const LIST_HELP: &str = "\
TRUST is who vouches for the guest OS: SIGNED the vendor or a registered CA, LOCALLY_SIGNED
only the local CA, UNSIGNED nobody, or it is not installed (GUESTOS is `none` then).

Examples:
  control list
  control --format json list";

pub(super) const STOP_HELP: &str = "\
The guest has 45 seconds to shut down; after that it is killed.

Examples:
  control stop web
  control stop web --no-wait";

pub(super) const UPDATE_HELP: &str = "\
Another `token_type` (SOFT if the configuration names none) or `pkcs11_module` kills the container
at once if it runs, and deletes what it has stored with its key: the new token could not open it. On
a terminal you are asked first, unless you say --yes; a script is warned when it is done.

Examples:
  control --format table config web > web.conf     and edit it
  control update_config web web.conf
  control update_config web web.conf web.sig web.cert";

pub(super) const REMOVE_HELP: &str = "\
A container that runs is killed. On a terminal you are asked first, unless you say --yes.

Examples:
  control remove web
  control remove --yes b51f6038";

pub(super) const COMPLETIONS_HELP: &str = "\
Examples:
  control completions bash > /etc/bash_completion.d/control
  control completions zsh > /usr/local/share/zsh/site-functions/_control
  control completions fish > /etc/fish/completions/control.fish";

pub(super) const CHANGE_PIN_HELP: &str = "\
A container uses the PIN of the device until it gets one of its own: the current PIN is then
that of the device.

Examples:
  control change_pin                      the device; its first PIN is `trustme`
  control change_pin web                  a PIN of its own for `web`, or another one
  printf 'old\\nnew\\nnew\\n' | control change_pin web";

pub(super) const CERTIFICATE_HELP: &str = "\
Possible until the device is provisioned.

Examples:
  control pull_csr device.csr
  control ca_register device_rootca.cert  if the daemon shall check who signed
  control push_cert device.cert";

pub(super) const LOGS_HELP: &str = "\
A file that is in the directory already is replaced if the new one continues it; else the new
one gets a number.

Examples:
  control retrieve_logs /tmp/logs
  control retrieve_logs /tmp/logs --remove";

pub(super) const PUSH_HELP: &str = "\
The images come from `update_base_url` of the configuration, else of device.conf:
  <url>/operatingsystems/<x86|arm|riscv>/<name>-<version>/<image_file>.img
over https://, http:// or from a directory: file:///path, or file://path below the root of
whoever pushes. What is there already is not fetched again. Containers get a newer version
when the device or the daemon is started again, or at a `reload`.

Example:
  control push_guestos_config busybox-2.conf busybox-2.sig busybox-2.cert";

pub(super) const IFACE_HELP: &str = "\
The interface is named as on the host, as in the container when it is taken away, or by its MAC
address. A container that does not run needs --persistent.

Examples:
  control assign_iface --iface eth1 web
  control assign_iface web --iface 02:fc:00:00:00:01 --persistent
  control unassign_iface --iface eth1 web --persistent";

pub(super) const CA_HELP: &str = "\
Registering a CA twice changes nothing. `ca_list` shows the CAs, `ca_remove` removes one.

Example:
  control ca_register rootca.cert";

pub(super) const CHECK_HELP: &str = "\
Every mistake is shown with its line and column, on standard output. Whether a guest OS is
installed or a signature is good only the daemon can tell.

Examples:
  control check web.conf
  control check --kind device /etc/cml/device.conf
  control check *.conf && control create web.conf";

pub(super) const AUDIT_HELP: &str = "\
Nothing is recorded unless device.conf has an `audit_size`.

Examples:
  control audit list
  control audit list web -n 20
  control audit verify
  control --format json audit list";

pub(super) const STATS_HELP: &str = "\
Memory does not count what the kernel can drop at once; OOM KILLS are processes that were ended
because it had run out, since the start. A column is `-` where the device does not count. With
--format json there are counters since the start, and with --watch one document a line.

Examples:
  control stats
  control stats web --watch=1";

pub(super) const DEVICE_HELP: &str = "\
A rule is c, b or a (character, block, all), major:minor with * for all, and some of r, w, m
(read, write, make a node; none of them means all). Without `allow` or `deny` before it, a rule with
rights allows and one without rights denies. What is to last belongs into `allow_dev` or
`assign_dev` of the configuration.

Examples:
  control dev_access web allow c 10:200 rw
  control dev_access web deny c 10:200 w
  control dev_access web \"c 10:200 rwm\"
  control dev_access web \"c 10:200\"       denies";

pub(super) const RUN_HELP: &str = "\
The command gets a terminal if standard input or standard output is one; else pipes, which
pass every byte unchanged and keep standard error apart. `nopty` before the command means -T.

Examples:
  control run web sh
  control run web nopty ls -l /
  control run -e LANG=C -w /srv web make
  control run -T web cat /etc/hostname > hostname
  control run -T web tar x < files.tar";
