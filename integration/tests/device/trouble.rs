//! What is wrong with a device, and how whoever stands before it learns of that.

use std::fs;

use cml_integration::machine::{Machine, Options, device};

use crate::{CORE0, await_core0, outside};

/// For the fixture, whose words live as long as the test binary.
fn forever(words: String) -> &'static str {
    Box::leak(words.into_boxed_str())
}

/// The number of the second partition in a GPT: behind two blocks, in the second entry of 128 bytes, behind its type.
fn root_number(disk: &[u8]) -> String {
    let number = &disk[1024 + 128 + 16..][..16];
    number.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn of_two_disks_with_one_image_none_is_taken_for_the_device() {
    let image = device().join("disk.img");
    let mut begin = vec![0; 2048];
    std::io::Read::read_exact(&mut fs::File::open(&image).unwrap(), &mut begin).unwrap();
    let number = root_number(&begin);
    let drive = format!(
        "file={},format=raw,if=none,id=second,readonly=on",
        image.display()
    );
    let second = [
        "-drive",
        forever(drive),
        "-device",
        "virtio-blk-pci,drive=second",
    ];
    for append in [String::new(), format!("cml.root={number}")] {
        let mut machine = Machine::switched_on(Options {
            append: forever(append),
            hardware: Box::leak(Box::new(second)),
            ..Options::default()
        });
        machine.await_words("take the disk away that is not this device's");
    }
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn the_console_tells_what_keeps_core0_from_starting_until_it_starts() {
    let mut machine = outside(Options::default());
    let images = "/data/cml/operatingsystems/gyroidos-coreos-1";
    machine.ok(&format!("mv {images} /data/away && sync"));
    machine.begin("reboot");
    machine.await_reboot();
    machine.await_words("gyroidos-coreos");
    let state = machine.ok(&format!("control --format text state {CORE0}"));
    assert!(state.contains("state: STOPPED"), "{state}");
    machine.ok(&format!("mv /data/away {images} && control reload"));
    await_core0(&mut machine);
    machine.await_words("This is core0.");
}

#[test]
#[ignore = "needs the device that `make test-device` builds"]
fn a_damaged_data_partition_is_repaired_and_somebody_is_told() {
    let mut machine = outside(Options::default());
    // Its first superblock.
    machine.ok(
        "data=$(awk '$2 == \"/data\" { print $1 }' /proc/mounts) && sync && \
         dd if=/dev/zero of=$data bs=1024 seek=1 count=1 conv=fsync",
    );
    machine.power_cut();
    await_core0(&mut machine);
    machine.await_words("the data partition is damaged, and repaired");
    machine.ok("grep -qi superblock /data/logs/e2fsck");
}
