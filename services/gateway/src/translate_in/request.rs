//! What a client can ask, typed.

use cml_bus::{
    api::{
        audit,
        container::{
            ChangePin, Create, Exec, Interfaces, PinEntry, Remove, RemoveGuestOs, SetAudio,
            SetDevice, SetFrozen, SetInterface, Start, Stop, UpdateConfig, WindowSize, Wipe,
        },
        guestos::Push,
        provisioning::PushCert,
        token,
    },
    id::ContainerId,
};
use cml_wire::proto::controller_to_daemon::Command;

use crate::policy::{self, Mode};

/// Which containers a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// None was named.
    All,
    /// The well-formed ones of those that were named: perhaps none.
    These(Vec<ContainerId>),
}

/// A command that may be carried out and has everything it needs.
#[derive(Debug)]
pub enum Request {
    /// `LIST_GUESTOS_CONFIGS`
    ListGuestOs,
    /// `LIST_CONTAINERS`
    ListContainers,
    /// `GET_CONTAINER_STATUS`
    Status(Selection),
    /// `GET_CONTAINER_CONFIG`
    Configs(Selection),
    /// `RELOAD_CONTAINERS`
    Reload,
    /// `CREATE_CONTAINER`
    Create(Create),
    /// `CONTAINER_UPDATE_CONFIG`
    UpdateConfig(UpdateConfig),
    /// `REMOVE_CONTAINER`
    Remove(Remove),
    /// `CONTAINER_START`
    Start(Start),
    /// `CONTAINER_STOP`
    Stop(Stop),
    /// `CONTAINER_FREEZE`, `CONTAINER_UNFREEZE`
    SetFrozen(SetFrozen),
    /// `CONTAINER_DEV_ACCESS`
    SetDevice(SetDevice),
    /// `CONTAINER_ALLOWAUDIO`, `CONTAINER_DENYAUDIO`
    SetAudio(SetAudio),
    /// `CONTAINER_STATS`
    ContainerStats(Selection),
    /// `CHANGE_DEVICE_PIN`
    ChangeDevicePin(token::ChangePin),
    /// `CONTAINER_CHANGE_TOKEN_PIN`
    ChangePin(ChangePin),
    /// `CONTAINER_WIPE`
    Wipe(Wipe),
    /// `WIPE_DEVICE`: all containers, and nothing else (design.md section 1).
    WipeAll,
    /// `CONTAINER_CMLD_HANDLES_PIN`
    PinEntry(PinEntry),
    /// `GET_PROVISIONED`
    GetProvisioned,
    /// `SET_PROVISIONED`
    SetProvisioned,
    /// `PULL_DEVICE_CSR`
    PullCsr,
    /// `PUSH_DEVICE_CERT`
    PushCert(PushCert),
    /// `REBOOT_DEVICE`
    Reboot,
    /// `GET_DEVICE_STATS`
    Stats,
    /// `GET_LAST_LOG`
    Logs(LogsRequest),
    /// `DESTROY_SYSTEM`
    Destroy,
    /// `PUSH_GUESTOS_CONFIG`
    Push(PushRequest),
    /// `REMOVE_GUESTOS`
    RemoveGuestOs(RemoveGuestOs),
    /// `REGISTER_NEWCA`, `REGISTER_LOCALCA`
    RegisterCa(token::RegisterCa),
    /// `CA_LIST`
    ListCas,
    /// `CA_REMOVE`
    RemoveCa(token::RemoveCa),
    /// `AUDIT_LIST`
    AuditList(audit::List),
    /// `AUDIT_VERIFY`
    AuditVerify,
    /// `CONTAINER_ASSIGNIFACE`, `CONTAINER_UNASSIGNIFACE`
    SetInterface(SetInterface),
    /// `CONTAINER_LIST_IFACES`
    Interfaces(Interfaces),
    /// `CONTAINER_EXEC_CMD`
    Exec(ExecRequest),
    /// `CONTAINER_EXEC_INPUT`: never answered (protocol.md 3.3).
    Input(InputRequest),
    /// `CONTAINER_EXEC_RESIZE`: never answered when it is well-formed, as its result shows in the terminal.
    Resize(ContainerId, WindowSize),
}

/// What is to be done with the log files.
#[derive(Debug, PartialEq, Eq)]
pub enum LogsRequest {
    /// Send all, and delete them afterwards if that is wanted.
    Send {
        /// Delete them when the client has them.
        remove: bool,
    },
    /// Delete these: the client says that it has stored them. Ours.
    Remove(Vec<String>),
}

/// A guest OS to be installed, and whether the client follows.
#[derive(Debug)]
pub struct PushRequest {
    /// What the guest OS service is asked.
    pub push: Push,
    /// Tell how far it is. Clients that do not ask for it get the replies of protocol.md 6.5 alone.
    pub progress: bool,
}

/// A command to run and how its output is wanted.
#[derive(Debug)]
pub struct ExecRequest {
    /// What the container service is asked.
    pub exec: Exec,
    /// Standard error in a field of its own. Clients that do not ask for it get it merged.
    pub separate_output: bool,
}

/// Input for the command that runs on this connection.
#[derive(Debug)]
pub struct InputRequest {
    /// The container the client means.
    pub id: ContainerId,
    /// The bytes, possibly none.
    pub data: Vec<u8>,
    /// No more will come.
    pub eof: bool,
}

/// Why a message is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a command, or not one for this socket or mode.
    #[error("{}", forbidden(*.0, *.1))]
    Forbidden(i32, Mode),
    /// A command of the protocol that this daemon does not carry out yet.
    #[error("not available in this version")]
    NotServed(Command),
    /// `container_uuids` does not hold exactly one well-formed entry.
    #[error("the command needs exactly one container uuid")]
    NoContainer(Command),
    /// A field that the command needs is absent.
    #[error("the command needs the field `{1}`")]
    Missing(Command, &'static str),
    /// A field has a value that means nothing.
    #[error("the field `{1}` is out of range")]
    OutOfRange(Command, &'static str),
    /// It came while a command ran on the connection and is too large to be kept until its end.
    #[error("command {0} is too large to wait for the running one; use another connection")]
    TooLargeToWait(i32),
}

/// What is in a command's way, and whether it would not be elsewhere. Whoever has sent it knows what it is called; people
/// do not know the names of the wire.
fn forbidden(number: i32, mode: Mode) -> String {
    if Command::try_from(number).is_err() {
        return format!("there is no command {number}");
    }
    let before = Mode {
        provisioned: false,
        ..mode
    };
    match (mode.provisioned, policy::admit(number, before)) {
        (true, Some(_)) => {
            let profile = if mode.extended { "EXTENDED" } else { "STRICT" };
            format!(
                "the device is provisioned (profile {profile}): this command is not allowed any more"
            )
        }
        _ if mode.privileged => "this command is not for control sockets".into(),
        _ => "this command is not allowed on the control socket of a guest".into(),
    }
}
