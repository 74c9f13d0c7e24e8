//! Who may send which command: the permission matrix of protocol.md 3.2 as data (SEC-14).
//!
//! Provisioned mode is looked at in hosted mode too (design.md section 1). An unprivileged socket never
//! gets more than its column, and nothing at all once a device is provisioned with the strict profile.

use cml_bus::{event::Events, provisioned::Provisioned};
use cml_wire::proto::controller_to_daemon::Command;

/// What an accepted connection stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// The device has been put into provisioned mode, for good.
    pub provisioned: bool,
    /// `provisioned_profile: EXTENDED` in `device.conf`; means nothing unless `provisioned`.
    pub extended: bool,
    /// The socket belongs to the host or to `core0`, not to a guest that may install guest OSes.
    pub privileged: bool,
    /// The daemon runs on an ordinary Linux; the policy does not depend on it.
    pub hosted: bool,
}

/// What is admitted on a socket, now and after the device was provisioned.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Whether the device is provisioned; looked at for every command.
    pub provisioned: Provisioned,
    /// As in [`Mode`].
    pub extended: bool,
    /// As in [`Mode`].
    pub privileged: bool,
    /// As in [`Mode`].
    pub hosted: bool,
    /// What happens, and who is told.
    pub events: Events,
}

impl Admission {
    /// What holds at this moment.
    pub fn now(&self) -> Mode {
        Mode {
            provisioned: self.provisioned.get(),
            extended: self.extended,
            privileged: self.privileged,
            hosted: self.hosted,
        }
    }
}

/// One line of the table. The columns are independent; a privileged socket of a device that is not
/// provisioned may send every command that has a line.
struct Rule {
    command: Command,
    unprivileged: bool,
    strict: bool,
    extended: bool,
}

const fn rule(command: Command, unprivileged: u8, strict: u8, extended: u8) -> Rule {
    Rule {
        command,
        unprivileged: unprivileged == 1,
        strict: strict == 1,
        extended: extended == 1,
    }
}

/// Columns: unprivileged socket, provisioned STRICT, provisioned EXTENDED. STRICT is the list of
/// design.md section 1 (`list` needs 2 and 3, `change_pin` is 42 or 116); EXTENDED is column P of
/// protocol.md 3.2 and whatever STRICT allows.
#[rustfmt::skip]
const TABLE: &[Rule] = &[
    rule(Command::ListGuestosConfigs,      1, 0, 1),
    rule(Command::ListContainers,          0, 1, 1),
    rule(Command::GetContainerStatus,      0, 1, 1),
    rule(Command::GetContainerConfig,      0, 0, 1),
    rule(Command::GetLastLog,              0, 0, 1),
    rule(Command::GetDeviceStats,          0, 0, 1),
    rule(Command::PushGuestosConfig,       1, 0, 1),
    rule(Command::ReloadContainers,        0, 0, 0),
    rule(Command::CreateContainer,         0, 1, 1),
    rule(Command::RemoveContainer,         0, 0, 0),
    rule(Command::RegisterLocalca,         1, 0, 0),
    rule(Command::RegisterNewca,           0, 0, 0),
    rule(Command::RemoveGuestos,           0, 0, 0),
    rule(Command::WipeDevice,              0, 0, 0),
    rule(Command::RebootDevice,            0, 0, 1),
    rule(Command::SetProvisioned,          0, 0, 0),
    rule(Command::GetProvisioned,          0, 1, 1),
    rule(Command::DestroySystem,           0, 0, 1),
    rule(Command::PullDeviceCsr,           0, 0, 0),
    rule(Command::PushDeviceCert,          0, 0, 0),
    rule(Command::ChangeDevicePin,         0, 1, 1),
    rule(Command::ContainerStart,          0, 1, 1),
    rule(Command::ContainerStop,           0, 1, 1),
    rule(Command::ContainerSwitch,         0, 0, 0),
    rule(Command::ContainerFreeze,         0, 0, 0),
    rule(Command::ContainerUnfreeze,       0, 0, 0),
    rule(Command::ContainerWipe,           0, 0, 0),
    rule(Command::ContainerSnapshot,       0, 0, 0),
    rule(Command::ContainerAllowaudio,     0, 0, 0),
    rule(Command::ContainerDenyaudio,      0, 0, 0),
    rule(Command::ContainerAssigniface,    0, 0, 0),
    rule(Command::ContainerUnassigniface,  0, 0, 0),
    rule(Command::ContainerListIfaces,     0, 0, 1),
    rule(Command::ContainerExecCmd,        0, 0, 0),
    rule(Command::ContainerExecInput,      0, 0, 0),
    rule(Command::ContainerUpdateConfig,   0, 1, 1),
    rule(Command::ContainerChangeTokenPin, 0, 1, 1),
    rule(Command::ContainerCmldHandlesPin, 0, 1, 1),
    rule(Command::ContainerDevAccess,      0, 0, 0),
    rule(Command::ContainerExecResize,     0, 0, 0),
    rule(Command::CaList,                  0, 0, 1),
    rule(Command::CaRemove,                0, 0, 0),
    rule(Command::AuditList,               0, 0, 1),
    rule(Command::AuditVerify,             0, 0, 1),
    rule(Command::ContainerStats,          0, 0, 1),
];

/// The command with this number if this connection may send it, `None` if it must be refused.
/// Numbers without a name and commands without a line are refused.
pub fn admit(number: i32, mode: Mode) -> Option<Command> {
    let command = Command::try_from(number).ok()?;
    let rule = TABLE.iter().find(|rule| rule.command == command)?;
    let strict = mode.provisioned && !mode.extended;
    let allowed = match (mode.privileged, mode.provisioned) {
        (false, _) => rule.unprivileged && (!strict || rule.strict),
        (true, false) => true,
        (true, true) if strict => rule.strict,
        (true, true) => rule.extended,
    };
    allowed.then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(privileged: bool, provisioned: bool, extended: bool) -> Mode {
        Mode {
            provisioned,
            extended,
            privileged,
            hosted: false,
        }
    }

    /// number, then one letter per column: open, STRICT, EXTENDED on a privileged socket; open,
    /// STRICT, EXTENDED on an unprivileged one. `+` is allowed, `-` answers `CMD_UNSUPPORTED`.
    const GOLDEN: &str = "\
1 LIST_GUESTOS_CONFIGS + - + + - +
2 LIST_CONTAINERS + + + - - -
3 GET_CONTAINER_STATUS + + + - - -
4 GET_CONTAINER_CONFIG + - + - - -
5 GET_LAST_LOG + - + - - -
6 GET_DEVICE_STATS + - + - - -
20 PUSH_GUESTOS_CONFIG + - + + - +
21 RELOAD_CONTAINERS + - - - - -
22 CREATE_CONTAINER + + + - - -
23 REMOVE_CONTAINER + - - - - -
24 REGISTER_LOCALCA + - - + - +
25 REGISTER_NEWCA + - - - - -
26 REMOVE_GUESTOS + - - - - -
30 WIPE_DEVICE + - - - - -
31 REBOOT_DEVICE + - + - - -
32 SET_PROVISIONED + - - - - -
33 GET_PROVISIONED + + + - - -
34 DESTROY_SYSTEM + - + - - -
40 PULL_DEVICE_CSR + - - - - -
41 PUSH_DEVICE_CERT + - - - - -
42 CHANGE_DEVICE_PIN + + + - - -
101 CONTAINER_START + + + - - -
102 CONTAINER_STOP + + + - - -
103 CONTAINER_SWITCH + - - - - -
104 CONTAINER_FREEZE + - - - - -
105 CONTAINER_UNFREEZE + - - - - -
106 CONTAINER_WIPE + - - - - -
107 CONTAINER_SNAPSHOT + - - - - -
108 CONTAINER_ALLOWAUDIO + - - - - -
109 CONTAINER_DENYAUDIO + - - - - -
110 CONTAINER_ASSIGNIFACE + - - - - -
111 CONTAINER_UNASSIGNIFACE + - - - - -
112 CONTAINER_LIST_IFACES + - + - - -
113 CONTAINER_EXEC_CMD + - - - - -
114 CONTAINER_EXEC_INPUT + - - - - -
115 CONTAINER_UPDATE_CONFIG + + + - - -
116 CONTAINER_CHANGE_TOKEN_PIN + + + - - -
117 CONTAINER_CMLD_HANDLES_PIN + + + - - -
118 CONTAINER_DEV_ACCESS + - - - - -
1000 CONTAINER_EXEC_RESIZE + - - - - -
1020 CA_LIST + - + - - -
1021 CA_REMOVE + - - - - -
1040 AUDIT_LIST + - + - - -
1041 AUDIT_VERIFY + - + - - -
1100 CONTAINER_STATS + - + - - -
";

    fn columns(number: i32) -> Vec<bool> {
        [
            (true, false, false),
            (true, true, false),
            (true, true, true),
        ]
        .into_iter()
        .chain([
            (false, false, false),
            (false, true, false),
            (false, true, true),
        ])
        .map(|(privileged, provisioned, extended)| {
            admit(number, mode(privileged, provisioned, extended)).is_some()
        })
        .collect()
    }

    #[test]
    fn the_table_is_the_agreed_one() {
        let mut actual = String::new();
        for number in -10..3000 {
            let Ok(command) = Command::try_from(number) else {
                continue;
            };
            let marks: Vec<_> = columns(number)
                .into_iter()
                .map(|allowed| if allowed { "+" } else { "-" })
                .collect();
            actual += &format!("{number} {} {}\n", command.as_str_name(), marks.join(" "));
        }
        assert_eq!(actual, GOLDEN);
    }

    #[test]
    fn numbers_without_a_name_are_refused_everywhere() {
        for number in [i32::MIN, -1, 0, 7, 19, 43, 100, 119, 999, 1001, i32::MAX] {
            assert_eq!(columns(number), [false; 6], "{number}");
        }
    }

    #[test]
    fn hosted_mode_does_not_soften_provisioned_mode() {
        for number in 0..1001 {
            let device = mode(true, true, false);
            let hosted = Mode {
                hosted: true,
                ..device
            };
            assert_eq!(admit(number, device), admit(number, hosted));
        }
    }
}
