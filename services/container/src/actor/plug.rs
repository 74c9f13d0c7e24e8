//! Devices that come and go while a container runs, by the kernel's news or by another look.

use std::{path::PathBuf, sync::Arc};

use cml_bus::{
    actor::{ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture, fut},
    api::container::ContainerError,
};
use cml_sys::{
    device::{Access, Device, node::Node},
    uevent::{Action, Uevent},
    usb::{self, UsbDevice},
};

use super::{One, devices::Change};
use crate::{
    devices::{self, Plugged, wanted},
    env::Env,
    fsm::State,
    one::Plug,
};

impl Handler<Plug> for One {
    type Result = ResponseActFuture<Self, Result<(), ContainerError>>;

    fn handle(&mut self, plug: Plug, _: &mut Context<Self>) -> Self::Result {
        // Its launch may have looked at `/dev` before or after this.
        self.missed_devices |= matches!(self.state(), State::Starting { .. });
        let event = match plug {
            Plug::Lost => return self.look_again(),
            Plug::Event(event) => event,
        };
        let had = self.may_open(event.device);
        let followed = self.follow(event.clone());
        // Afterwards, as whoever hears of a device opens its node. What it lost just now it hears of as well.
        Box::pin(followed.map(move |followed, one, _| {
            let emulator = one.live.as_ref().and_then(|live| live.emulator.clone());
            if let Some(emulator) = emulator.filter(|_| had || one.may_open(event.device)) {
                let _ = emulator.cry(&event.text);
            }
            followed
        }))
    }
}

impl One {
    fn may_open(&self, device: Device) -> bool {
        let open = Access::READ.or(Access::WRITE);
        let live = self.live.as_ref();
        let granted = live.map(|live| live.running.devices.rules.granted(device));
        granted.is_some_and(|granted| !granted.and(open).is_empty())
    }

    /// Brings the container's devices into line with news of one.
    fn follow(&self, event: Arc<Uevent>) -> ResponseActFuture<Self, Result<(), ContainerError>> {
        if let Some(changed) = self.plug_usb(&event) {
            return changed;
        }
        if !self.may_open(event.device) {
            return Box::pin(fut::ok(()));
        }
        self.on_dev(move |env, dev, _| {
            let done = match event.action {
                Action::Add => dev.add(&node_of(env, &event)),
                Action::Remove => dev.remove(&event.node, event.device),
                Action::Other => Ok(()),
            };
            done.map_err(|error| error.to_string())
        })
    }

    /// News of a USB device that the configuration may be about; `None` if it is not, and other rules decide.
    fn plug_usb(
        &self,
        event: &Uevent,
    ) -> Option<ResponseActFuture<Self, Result<(), ContainerError>>> {
        if event.subsystem != "usb" || event.devtype.as_deref() != Some("usb_device") {
            return None;
        }
        let has = self.plugged(event.device);
        match (event.action, has) {
            (Action::Remove, Some(plugged)) => Some(self.change_devices(Change::PlugOut(plugged))),
            (Action::Remove, None) | (Action::Other, _) => None,
            (Action::Add, _) if wanted::usb(&self.config()).is_empty() => None,
            (Action::Add, _) => {
                let path = self.env.devices.sys().join(&event.path);
                let look = self.look(move |_| usb::at(&path)).into_actor(self);
                Some(Box::pin(look.then(|found, one, _| match found {
                    Ok(Some(device)) => one.plug_in(&device),
                    Ok(None) => Box::pin(fut::ok(())),
                    Err(error) => Box::pin(fut::err(error)),
                })))
            }
        }
    }

    fn plugged(&self, device: Device) -> Option<Plugged> {
        let held = &self.live.as_ref()?.running.devices;
        let mut all = held.usb.iter();
        all.find(|plugged| plugged.rule.covers(device)).cloned()
    }

    fn has_plugged(&self, device: &UsbDevice) -> bool {
        let held = self.live.as_ref().map(|live| &live.running.devices);
        held.is_some_and(|held| held.usb.iter().any(|plugged| plugged.is(device)))
    }

    /// Gives a USB device to the container if it wants it and does not have it.
    fn plug_in(&self, device: &UsbDevice) -> ResponseActFuture<Self, Result<(), ContainerError>> {
        let wanted = wanted::usb(&self.config());
        match devices::wants(&wanted, device) {
            Some(usb) if !self.has_plugged(device) => self.change_devices(Change::PlugIn {
                plugged: Plugged::of(device),
                own: usb.assign,
            }),
            _ => Box::pin(fut::ok(())),
        }
    }

    /// Some news were lost: what is there now counts.
    pub(super) fn look_again(&self) -> ResponseActFuture<Self, Result<(), ContainerError>> {
        let look = self.look(|env| usb::all(env.devices.sys()));
        let nodes = self.on_dev(|env, dev, held| env.devices.renew(dev, &held.rules));
        let all = nodes.then(|_, one: &mut Self, _| look.into_actor(one));
        Box::pin(all.then(|found, one, _| {
            let found = found.unwrap_or_default();
            let held = one
                .live
                .as_ref()
                .map(|live| live.running.devices.usb.clone());
            let gone = held
                .unwrap_or_default()
                .into_iter()
                .filter(|plugged| !found.iter().any(|device| plugged.is(device)));
            let mut changes: Vec<_> = gone
                .map(|plugged| one.change_devices(Change::PlugOut(plugged)))
                .collect();
            changes.extend(found.iter().map(|device| one.plug_in(device)));
            changes.into_iter().fold(
                Box::pin(fut::ok(())) as ResponseActFuture<Self, _>,
                |all, next| Box::pin(all.then(|_, _, _| next)),
            )
        }))
    }
}

/// The node as the host has it; where nobody has made one there, one for root alone.
fn node_of(env: &Env, event: &Arc<Uevent>) -> Node {
    let found = env.devices.node(&event.node);
    found
        .filter(|node| node.device == event.device)
        .unwrap_or_else(|| Node {
            name: PathBuf::from(&event.node),
            device: event.device,
            mode: 0o600,
            owner: (0, 0),
        })
}
