//! What the manager asks of the actor of one container, beside the commands of the service's own contract.

use std::sync::Arc;

use cml_bus::api::container::{ContainerError, Exec, SetAudio, SetDevice, SetFrozen, Start, Stop};
use cml_sys::uevent::Uevent;
use cml_wire::proto::ContainerConfig;

use crate::view::Guest;

/// Stop without a PIN: the device shuts down.
#[derive(Debug)]
pub struct Halt;

/// End at once: the container is about to be removed.
#[derive(Debug)]
pub struct Kill;

/// Use this configuration from now on, or as soon as nothing runs.
#[derive(Debug)]
pub struct Reconfigure {
    /// The configuration.
    pub config: Arc<ContainerConfig>,
    /// What its guest OS makes of it.
    pub guest: Option<Guest>,
}

/// Its guest OS is another one, or is trusted differently, from its next start on.
#[derive(Debug)]
pub struct Reassess {
    /// The configuration that was looked at; means nothing for another one.
    pub config: Arc<ContainerConfig>,
    /// What the guest OS makes of it now.
    pub guest: Option<Guest>,
}

/// Something happened to a device of the host.
#[derive(Debug, Clone)]
pub enum Plug {
    /// This.
    Event(Arc<Uevent>),
    /// Nobody knows what: look at everything again.
    Lost,
}

/// Delete everything that the container has stored. Only of one that does not run.
#[derive(Debug)]
pub struct WipeAtRest;

/// End this actor; the container is gone.
#[derive(Debug)]
pub struct Retire;

cml_bus::request!(Halt => (), ContainerError, "container.one.halt", 10 s);
cml_bus::request!(Kill => (), ContainerError, "container.one.kill", 10 s);
cml_bus::request!(Reconfigure => (), ContainerError, "container.one.reconfigure", 10 s);
cml_bus::request!(Reassess => (), ContainerError, "container.one.reassess", 10 s);
cml_bus::request!(Plug => (), ContainerError, "container.one.plug", 20 s);
cml_bus::request!(WipeAtRest => (), ContainerError, "container.one.wipe", 120 s);
cml_bus::request!(Retire => (), ContainerError, "container.one.retire", 10 s);

cml_bus::service_port! {
    /// What the manager asks of one container.
    OnePort {
        /// Start.
        start: Start,
        /// Stop.
        stop: Stop,
        /// Freeze or thaw.
        set_frozen: SetFrozen,
        /// Run a command.
        exec: Exec,
        /// Grant or take a device.
        set_device: SetDevice,
        /// Grant or take the sound devices.
        set_audio: SetAudio,
        /// News of a device.
        plug: Plug,
        /// Stop without a PIN.
        halt: Halt,
        /// End at once.
        kill: Kill,
        /// New configuration.
        reconfigure: Reconfigure,
        /// Another guest OS for the same configuration.
        reassess: Reassess,
        /// Delete what is stored.
        wipe: WipeAtRest,
        /// End the actor.
        retire: Retire,
    }
}
