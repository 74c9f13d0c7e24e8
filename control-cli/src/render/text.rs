//! The form of the old client, for scripts that search it (protocol.md 1.6, 4.1).

use cml_wire::{
    proto::{ContainerStatus, DaemonToController, daemon_to_controller::Code},
    text,
};

/// The reply as the old client would print it: without the fields it does not know, and nothing at all
/// for a `RESPONSE` that carries none (protocol.md 4.1).
pub fn reply(reply: &DaemonToController) -> String {
    if reply.code == i32::from(Code::Response) && reply.response.is_none() {
        return String::new();
    }
    text::print(&without_extensions(reply))
}

/// Without our own fields, numbers >= 1000 (design.md 1).
fn without_extensions(reply: &DaemonToController) -> DaemonToController {
    DaemonToController {
        error_text: None,
        exec_status: None,
        exec_stderr: None,
        pin_required: None,
        progress: None,
        done_text: None,
        warnings: Vec::new(),
        would_wipe: None,
        container_status: reply
            .container_status
            .iter()
            .map(|status| ContainerStatus {
                audio: None,
                last_end: None,
                damage: None,
                ..status.clone()
            })
            .collect(),
        ..reply.clone()
    }
}
