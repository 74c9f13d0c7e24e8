//! Carries out a request that has at most one reply: one port call, then the translation back.

use cml_bus::{
    api::{
        audit::Verify,
        container::{self, Configs, Reload, Status, WipeAll},
        guestos::List,
        provisioning::{Destroy, PullCsr, Reboot, SetProvisioned, Stats},
        token::ListCas,
    },
    id::ContainerId,
};
use cml_wire::proto::DaemonToController;

use crate::{
    session::Shared,
    translate_in::{Request, Selection},
    translate_out,
};

/// The reply to the request, `None` where silence is the rule. `Exec`, `Push` and `Logs` are not for this
/// function (`exec::run`, `push::run`, `logs::run`).
pub async fn answer(request: Request, shared: &Shared) -> Option<DaemonToController> {
    let container = &shared.ports.container;
    let device = &shared.ports.provisioning;
    Some(match request {
        Request::ListGuestOs => {
            translate_out::guestos_list(shared.ports.guestos.list.call(List).await)
        }
        Request::ListContainers => {
            translate_out::container_list(container.status.call(Status { ids: vec![] }).await)
        }
        Request::Status(selection) => translate_out::status(match ids(selection) {
            Some(ids) => container.status.call(Status { ids }).await,
            None => Ok(vec![]),
        }),
        Request::Configs(selection) => translate_out::configs(match ids(selection) {
            Some(ids) => container.configs.call(Configs { ids }).await,
            None => Ok(vec![]),
        }),
        Request::Reload => translate_out::plain(container.reload.call(Reload).await),
        Request::Create(request) => translate_out::created(container.create.call(request).await),
        Request::UpdateConfig(request) => {
            translate_out::created(container.update_config.call(request).await)
        }
        Request::Remove(request) => translate_out::plain(container.remove.call(request).await),
        Request::Start(request) => translate_out::start(container.start.call(request).await),
        Request::Stop(request) => translate_out::stop(container.stop.call(request).await),
        Request::SetFrozen(request) => {
            translate_out::plain(container.set_frozen.call(request).await)
        }
        Request::SetDevice(request) => {
            translate_out::plain(container.set_device.call(request).await)
        }
        Request::SetAudio(request) => translate_out::done(container.set_audio.call(request).await),
        Request::ContainerStats(selection) => {
            translate_out::container_stats(match ids(selection) {
                Some(ids) => container.stats.call(container::Stats { ids }).await,
                None => Ok(vec![]),
            })
        }
        Request::ChangeDevicePin(request) => translate_out::changed_pin(
            shared
                .ports
                .token
                .change_pin
                .call(request)
                .await
                .map_err(Into::into),
        ),
        Request::ChangePin(request) => {
            translate_out::changed_pin(container.change_pin.call(request).await)
        }
        Request::Wipe(request) => translate_out::plain(container.wipe.call(request).await),
        Request::WipeAll => translate_out::plain(container.wipe_all.call(WipeAll).await),
        Request::PinEntry(request) => {
            translate_out::pin_entry(container.pin_entry.call(request).await)
        }
        Request::GetProvisioned => translate_out::provisioned(shared.admission.provisioned.get()),
        Request::SetProvisioned => {
            translate_out::device(device.set_provisioned.call(SetProvisioned).await)
        }
        Request::PullCsr => translate_out::csr(device.pull_csr.call(PullCsr).await),
        Request::PushCert(request) => {
            translate_out::pushed_cert(device.push_cert.call(request).await)
        }
        Request::Reboot => translate_out::rebooted(device.reboot.call(Reboot).await),
        Request::Stats => translate_out::stats(device.stats.call(Stats).await),
        Request::Destroy => translate_out::device(device.destroy.call(Destroy).await),
        Request::RemoveGuestOs(request) => {
            translate_out::plain(container.remove_guestos.call(request).await)
        }
        Request::SetInterface(request) => {
            translate_out::plain(container.set_interface.call(request).await)
        }
        Request::Interfaces(request) => {
            translate_out::interfaces(container.interfaces.call(request).await)
        }
        Request::RegisterCa(request) => {
            translate_out::registered_ca(shared.ports.token.register_ca.call(request).await)
        }
        Request::ListCas => translate_out::ca_list(shared.ports.token.list_cas.call(ListCas).await),
        Request::RemoveCa(request) => {
            let removed = shared.ports.token.remove_ca.call(request).await;
            translate_out::plain(removed.map_err(Into::into))
        }
        Request::AuditList(request) => {
            translate_out::audit_list(shared.ports.audit.list.call(request).await)
        }
        Request::AuditVerify => {
            translate_out::audit_verdict(shared.ports.audit.verify.call(Verify).await)
        }
        Request::Push(_)
        | Request::Logs(_)
        | Request::Exec(_)
        | Request::Input(_)
        | Request::Resize(..) => {
            return None;
        }
    })
}

/// The services take an empty list as "all", so a list of which nothing is left must not reach them.
fn ids(selection: Selection) -> Option<Vec<ContainerId>> {
    match selection {
        Selection::All => Some(vec![]),
        Selection::These(ids) => (!ids.is_empty()).then_some(ids),
    }
}
