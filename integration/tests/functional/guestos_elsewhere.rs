//! Guest OSes whose images come from, or go to, places outside the store.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command as Program, Stdio},
};

use cml_integration::{Daemon, Host, Setup, http::Server, kit::kit, package::Package};
use cml_wire::proto::guest_os_mount::Type;

/// A daemon whose guest OSes may write below `boot` in its own directory.
fn flashable(server: &Server) -> Daemon {
    // It fetches from servers of the tests.
    let mut daemon = Daemon::prepared(Setup {
        host: Host::TheMachine,
        ..Setup::default()
    });
    let boot = daemon.path("boot");
    fs::create_dir(&boot).unwrap();
    let conf = format!(
        "{}update_base_url: \"{}\"\nflash_targets: \"{}\"\n",
        Setup::default().device_conf,
        server.base,
        boot.display()
    );
    fs::write(daemon.path("conf/device.conf"), conf).unwrap();
    daemon.start();
    daemon
}

/// The kit's guest with its image as a kernel that belongs to `target`.
fn kernel(daemon: &Daemon, version: u64, target: &Path) -> Package {
    Package::new(daemon, "kernel", version, |guest| {
        guest.mounts[0].set_mount_type(Type::Flash);
        guest.mounts[0].image_file = "kernel".into();
        guest.mounts[0].mount_point = target.display().to_string();
        guest.mounts[0].fs_type = "none".into();
    })
}

#[test]
fn a_flash_image_is_written_to_its_place_and_what_was_there_is_kept() {
    let server = Server::good();
    let daemon = flashable(&server);
    let target = daemon.path("boot/vmlinuz");
    fs::write(&target, "the old kernel").unwrap();
    kernel(&daemon, 1, &target).pushed(&daemon);
    assert_eq!(fs::read(&target).unwrap(), kit().image());
    let backup = daemon.base().join("os_update_bak/kernel-1/0-kernel");
    assert_eq!(fs::read(&backup).unwrap(), b"the old kernel");
    assert!(daemon.control().ok(&["list_guestos"]).out.contains("FLASH"));
    // Somebody else has written there since: a push puts it right.
    fs::write(&target, "something else").unwrap();
    kernel(&daemon, 1, &target).pushed(&daemon);
    assert_eq!(fs::read(&target).unwrap(), kit().image());
    assert_eq!(fs::read(&backup).unwrap(), b"something else");
    assert_eq!(server.asked().len(), 1);
    daemon.control().ok(&["remove_guestos", "kernel"]);
    assert!(!backup.exists());
    let other = Package::new(&daemon, "foreign", 1, |guest| guest.hardware = "arm".into());
    assert!(other.refused(&daemon).contains("this machine is"));
}

#[test]
fn a_kernel_that_is_being_written_when_the_daemon_is_told_to_end_is_installed_first() {
    let server = Server::good();
    let mut daemon = flashable(&server);
    let target = daemon.path("boot/vmlinuz");
    fs::write(&target, "the old kernel").unwrap();
    daemon.stop();
    // A disk on which it takes a while until everything is written.
    let new = daemon.path("boot/.vmlinuz.cml-new").display().to_string();
    let setup = Setup::with_failing("trace=fsync", "inject=fsync:delay_enter=3000000");
    let slow = [setup.through, vec!["-P", new.leak()]].concat();
    daemon = daemon.through(slow);
    daemon.start();
    let words = kernel(&daemon, 1, &target).words();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut client = daemon.control().command(&words);
    let mut client = client.stderr(Stdio::null()).spawn().unwrap();
    daemon.wait_for_log("flashing");
    // Nobody waits for the end of it but the daemon itself.
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(fs::read(&target).unwrap() == kit().image(), "cut off");
    daemon = daemon.through(Vec::new());
    daemon.start();
    assert!(daemon.control().ok(&["list_guestos"]).out.contains("FLASH"));
    assert!(fs::read(&target).unwrap() == kit().image(), "taken back");
}

#[test]
fn a_flash_image_is_written_to_a_block_device_unless_it_is_in_use_or_too_small() {
    let server = Server::good();
    let daemon = flashable(&server);
    let size = kit().image().len() as u64;
    let disk = |name: &str, bytes: u64| {
        let file = daemon.path(name);
        fs::write(&file, vec![7; usize::try_from(bytes).unwrap()]).unwrap();
        let mut losetup = Program::new("losetup");
        let output = losetup.args(["-f", "--show"]).arg(&file).output().unwrap();
        assert!(output.status.success());
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        std::os::unix::fs::symlink(&device, daemon.path(&format!("boot/{name}"))).unwrap();
        Loop(device)
    };
    let room = size.next_multiple_of(4096) + 8192;
    let (good, small) = (disk("good", room), disk("small", 8192));
    // The link leads out of what is permitted.
    let outside = kernel(&daemon, 1, &daemon.path("boot/good"));
    assert!(outside.refused(&daemon).contains("flash_targets"));
    let conf = daemon.path("conf/device.conf");
    let permitted = fs::read_to_string(&conf).unwrap() + "flash_targets: \"/dev\"\n";
    fs::write(&conf, permitted).unwrap();
    let mut daemon = daemon;
    daemon.stop();
    daemon.start();
    let too_large = kernel(&daemon, 1, Path::new(&small.0)).refused(&daemon);
    assert!(too_large.contains("has 8192 bytes"), "{too_large}");
    // As a mounted file system holds its device.
    let held = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_EXCL)
        .open(&good.0);
    let in_use = kernel(&daemon, 1, Path::new(&good.0)).refused(&daemon);
    assert!(in_use.contains("busy"), "{in_use}");
    drop(held.unwrap());
    kernel(&daemon, 1, Path::new(&good.0)).pushed(&daemon);
    let written = fs::read(daemon.path("good")).unwrap();
    assert_eq!(written[..kit().image().len()], kit().image());
    assert!(written[kit().image().len()..].iter().all(|byte| *byte == 7));
    // What is right already need not be written, in use or not.
    let held = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_EXCL)
        .open(&good.0);
    kernel(&daemon, 1, Path::new(&good.0)).pushed(&daemon);
    drop(held.unwrap());
    drop((good, small));
}

/// Linux, `asm-generic/fcntl.h`.
const O_EXCL: i32 = 0o200;

struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Program::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_host_is_flashed_only_where_it_says_so_and_a_failure_changes_nothing() {
    let server = Server::good();
    let daemon = flashable(&server);
    let (inside, outside) = (daemon.path("boot/vmlinuz"), daemon.path("passwd"));
    fs::write(&outside, "root").unwrap();
    for target in [
        &outside,
        &daemon.path("boot/../passwd"),
        &daemon.path("boot/absent/x"),
    ] {
        kernel(&daemon, 1, target).refused(&daemon);
    }
    // The second image cannot go to a directory: the first is taken back.
    fs::write(&inside, "old").unwrap();
    fs::create_dir(daemon.path("boot/dir")).unwrap();
    let dir = daemon.path("boot/dir").display().to_string();
    let half = Package::new(&daemon, "kernel", 1, |guest| {
        let mut mount = guest.mounts[0].clone();
        mount.set_mount_type(Type::Flash);
        mount.mount_point = inside.display().to_string();
        guest.mounts = vec![mount.clone(), mount];
        guest.mounts[1].mount_point = dir;
    });
    let error = half.refused(&daemon);
    assert!(
        error.contains("neither a block device nor a file"),
        "{error}"
    );
    assert_eq!(fs::read(&inside).unwrap(), b"old");
    assert_eq!(fs::read(&outside).unwrap(), b"root");
    assert!(!daemon.stored().iter().any(|name| name.contains("kernel")));
    let plain = Daemon::new(Setup {
        device_conf: format!(
            "{}update_base_url: \"{}\"\n",
            Setup::default().device_conf,
            server.base
        ),
        host: Host::TheMachine,
        ..Setup::default()
    });
    let refused = kernel(&plain, 1, Path::new("/boot/vmlinuz")).refused(&plain);
    assert!(refused.contains("/boot/vmlinuz"), "{refused}");
}

#[test]
fn a_relative_file_url_means_a_path_below_the_root_of_whoever_pushes() {
    let daemon = Daemon::default();
    // A root of its own with the client, the images, and a link that would lead out of it.
    let root = daemon.path("jail");
    let images = root.join("mirror/operatingsystems/x86/os-1");
    fs::create_dir_all(&images).unwrap();
    let package = Package::new(&daemon, "os", 1, |guest| {
        guest.update_base_url = Some("file://mirror".into());
    });
    let push = || {
        let mut words = package.words();
        for word in &mut words[1..] {
            let name = Path::new(word).file_name().unwrap();
            fs::copy(&*word, root.join(name)).unwrap();
            *word = format!("/{}", name.to_string_lossy());
        }
        let mut jailed = Program::new("unshare");
        jailed.args(["-m", "sh", "-c"]);
        // The libraries of this machine, and the socket, as a container would see them.
        jailed.arg(
            "set -e; cd \"$1\"; for dir in usr lib lib64 run; do mkdir -p $dir; done; mount --rbind /usr usr; \
             mount --rbind /lib lib; mount --rbind /lib64 lib64; mount --bind \"$2\" run; cp \"$3\" control; \
             shift 3; exec chroot . /control -s /run/cml-control \"$@\"",
        );
        jailed.arg("sh").arg(&root).arg(daemon.path("run"));
        jailed.arg(&kit().control).args(&words);
        let output = jailed.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(push().contains("file://mirror/operatingsystems/x86/os-1/root.img"));
    let out = daemon.path("outside.img");
    fs::write(&out, kit().image()).unwrap();
    std::os::unix::fs::symlink(&out, images.join("root.img")).unwrap();
    let refused = push();
    assert!(refused.contains("INSTALL_FAILED"), "{refused}");
    fs::remove_file(images.join("root.img")).unwrap();
    fs::write(images.join("root.img"), kit().image()).unwrap();
    let done = push();
    assert!(done.contains("INSTALL_COMPLETED"), "{done}");
    daemon.running("web", "os");
}
