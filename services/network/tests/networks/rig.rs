//! What the tests are made with: a host, a world behind it, and containers.

use std::{env, fs, ops::Deref, path::PathBuf, process::Command, sync::Arc};

use cml_bus::id::ContainerId;
use cml_network::{Networks, Settings};
use cml_sys::net::{link::End, namespace::Namespace, pin::Place};
use cml_wire::{proto::ContainerConfig, text};
use tempfile::TempDir;

pub struct Rig {
    pub dir: Scratch,
    pub host: Arc<Namespace>,
    /// At the other ends of the host's network cards.
    pub world: Namespace,
    pub hosted: bool,
    pub isolate: bool,
}

/// The files of the networks. Namespaces that are still named there, after a test that failed, go with them.
pub struct Scratch(TempDir);

impl Scratch {
    fn names(&self) -> impl Iterator<Item = PathBuf> {
        let names = fs::read_dir(self.0.path().join("netns"));
        names
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    }
}

impl Scratch {
    /// A name for a network, for the words that `ip` takes.
    pub fn keep(&self, network: &Namespace, name: &str) -> String {
        let dir = self.0.path().join("kept");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        Place::current().unwrap().pin(network, &path).unwrap();
        path.display().to_string()
    }

    /// Another network with a name.
    pub fn network(&self, name: &str) -> Kept {
        let namespace = Namespace::create().unwrap();
        let path = self.keep(&namespace, name);
        Kept { path, namespace }
    }
}

/// A network that does not end with those who are in it.
pub struct Kept {
    pub path: String,
    namespace: Namespace,
}

impl Deref for Kept {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let kept = fs::read_dir(self.0.path().join("kept"));
        let kept = kept
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for name in self.names().chain(kept) {
            let _ = Command::new("umount").arg(name).status();
        }
    }
}

impl Rig {
    pub fn new() -> Self {
        let rig = Self {
            dir: Scratch(tempfile::tempdir().unwrap()),
            host: Namespace::create().unwrap().into(),
            world: Namespace::create().unwrap(),
            hosted: true,
            isolate: false,
        };
        // A new network takes the machine's forwarding over (devconf_inherit_init_net).
        sh(
            &rig.host,
            "ip link set lo up && sysctl -qw net.ipv4.ip_forward=0 && \
             sysctl -qw net.ipv6.conf.all.forwarding=0",
        );
        sh(&rig.world, "ip link set lo up");
        rig
    }

    /// A daemon that starts, perhaps after another one.
    pub fn networks(&self) -> Networks {
        let settings = Settings {
            store: self.dir.0.path().join("store"),
            run: self.dir.0.path().join("run"),
            pins: self.dir.0.path().join("netns"),
            hosted: self.hosted,
            isolate: self.isolate,
            host: self.host.clone(),
            place: Place::current().unwrap().into(),
        };
        Networks::open(settings).unwrap()
    }

    /// Plugs a network card into the host; its other end is in the world.
    pub fn plug(&self, name: &str, mac: &str) {
        let end = |name, mac: Option<&str>| End {
            name,
            mac: mac.map(|mac| mac.parse().unwrap()),
            group: 0,
        };
        let mut netlink = self.host.netlink().unwrap();
        netlink
            .add_veth(&end(name, Some(mac)), &end(name, None), &self.world)
            .unwrap();
    }

    /// Everything about the host's network that should be as it was.
    pub fn picture(&self) -> String {
        // What the kernel makes by itself comes and goes in its own time.
        sh(
            &self.host,
            "(ip -d addr | sed -E 's/ qdisc [a-z]+//; s/ link-netnsid [0-9]+//; s/(valid|preferred)_lft [0-9]+sec//g'; \
             ip route show table all; ip -6 route show table all; nft list ruleset) | \
             grep -v 'fe80:\\|multicast\\|_lft forever'",
        )
    }

    /// Nothing of any container is left.
    pub fn check(&self) {
        let left = self.dir.names().count();
        assert_eq!(left, 0, "names of networks are left");
        let left = fs::read_dir(self.dir.0.path().join("run")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name());
        // What is known of the device is no container's.
        let left: Vec<_> = left.filter(|name| name != "device.json").collect();
        assert!(left.is_empty(), "records are left: {left:?}");
    }
}

/// Runs a command line in a namespace; what it printed. Complaints count if it failed: `ip` complains about names of
/// networks that others are about to make or to remove.
pub fn try_sh(namespace: &Namespace, line: &str) -> Result<String, String> {
    let output = namespace
        .run(|| Ok(Command::new("sh").args(["-c", line]).output()))
        .unwrap();
    let output = output.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&[output.stdout, output.stderr].concat())),
    }
}

#[track_caller]
pub fn sh(namespace: &Namespace, line: &str) -> String {
    try_sh(namespace, line).unwrap_or_else(|said| panic!("{line}: {said}"))
}

#[track_caller]
pub fn same(before: &str, after: &str) {
    let only = |these: &str, those: &str| -> Vec<String> {
        let those: Vec<_> = those.lines().collect();
        let these = these.lines().filter(|line| !those.contains(line));
        these.map(str::to_owned).collect()
    };
    let (less, more) = (only(before, after), only(after, before));
    assert!(
        before == after,
        "gone: {less:#?}, new: {more:#?}, of {before}\nnow {after}"
    );
}

/// Waits until an interface that was set up carries.
pub fn carries(namespace: &Namespace, name: &str) {
    let state = || sh(namespace, &format!("ip -o link show dev {name}; ip route"));
    let soon = (0..500).any(|_| {
        let state = state();
        std::thread::sleep(std::time::Duration::from_millis(10));
        state.contains("state UP") && !state.contains("linkdown")
    });
    assert!(soon, "{}", state());
}

pub fn pings(from: &Namespace, to: &str) -> bool {
    let version = if to.contains(':') { "-6" } else { "-4" };
    try_sh(from, &format!("busybox ping {version} -c 1 -W 2 {to}")).is_ok()
}

/// A port of a bridge passes nothing on in its first second.
pub fn pings_soon(from: &Namespace, to: &str) -> bool {
    (0..5).any(|_| pings(from, to))
}

pub fn config(lines: &str) -> ContainerConfig {
    text::parse(format!("name: \"x\"\nguest_os: \"x\"\n{lines}").as_bytes()).unwrap()
}

/// A container: its namespace, as its processes would hold it.
pub fn container() -> (ContainerId, Namespace) {
    let namespace = Namespace::create().unwrap();
    sh(&namespace, "ip link set lo up");
    (ContainerId::random(), namespace)
}

pub fn attach(networks: &mut Networks, lines: &str) -> (ContainerId, Namespace) {
    let (id, namespace) = container();
    networks
        .attach(id, namespace.try_clone().unwrap(), &config(lines))
        .unwrap();
    (id, namespace)
}

/// The management container comes up, and is given what it has.
pub fn attach_core0(networks: &mut Networks) -> Namespace {
    let (_, namespace) = container();
    let own = namespace.try_clone().unwrap();
    networks
        .attach(ContainerId::CORE0, own, &config(""))
        .unwrap();
    namespace
}

pub fn address(namespace: &Namespace, interface: &str, family: &str) -> String {
    let all = sh(
        namespace,
        &format!("ip {family} -o addr show dev {interface} scope global"),
    );
    let cidr = all.split_whitespace().nth(3).unwrap();
    cidr.split('/').next().unwrap().to_owned()
}

pub fn cycles(few: usize) -> usize {
    env::var("CML_CYCLES").map_or(few, |text| text.parse().unwrap())
}
