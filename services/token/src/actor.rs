//! The token actor: self-provisioning, PINs and signatures, none of which blocks the bus.

use std::collections::HashMap;

use cml_bus::{
    actor::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture},
    api::token::{
        ChangePin, Core0Key, DestroyKey, EnterPin, Forget, Holder, Identify, Identity,
        InstallCertificate, ListCas, RegisterCa, ReleaseKey, RemoveCa, TokenError, TokenKind,
        Unlock, VerifySignature,
    },
    audit::Did,
    blocking::Pool,
    error::BusError,
    event::{Event, Events},
    id::ContainerId,
    provisioned::Provisioned,
    secret::{Key, Pin},
    supervisor::Watch,
};
use cml_wire::proto::{CaCertificate, ContainerTrust};
use tokio::sync::watch;

use crate::{
    identity::{self, DeviceFiles},
    pinpad::{self, PATIENCE},
    report,
    signature::Roots,
    softtoken::{FIRST_PIN, Softtoken},
    tokens::{Places, Tokens},
};

/// What the service needs to know of the device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where tokens and keys lie, and how they are made.
    pub places: Places,
    /// Refuse certificates outside their validity, provisioned or not.
    pub enforce_validity: bool,
    /// A provisioned device refuses them as well (protocol.md 7.3).
    pub provisioned: Provisioned,
}

impl Settings {
    /// The trusted roots, as strict as the mode of this moment wants it.
    fn roots(&self) -> Roots {
        Roots {
            dir: self.places.tokens.clone(),
            enforce_validity: self.enforce_validity || self.provisioned.get(),
        }
    }

    fn identity(&self) -> DeviceFiles {
        DeviceFiles::new(&self.places.tokens)
    }
}

/// How far self-provisioning has come.
#[derive(Debug, Clone, Copy)]
enum DeviceToken {
    Making,
    Ready,
    Failed,
}

/// The token service.
#[derive(Debug)]
pub struct Token {
    settings: Settings,
    tokens: Tokens,
    device_token: watch::Sender<DeviceToken>,
    /// One job at a time: a flood of wrong PINs never takes more than one core (design.md section 3).
    derivation: Pool,
    /// Deleting needs no PIN and never waits behind one.
    files: Pool,
    /// One for each PKCS#11 module: one that hangs holds up its own containers only.
    modules: HashMap<String, Pool>,
    signatures: Pool,
    /// Changes of the trusted roots, in turn.
    roots: Pool,
    events: Events,
    /// Each entry waits for whoever types; a client that is gone does not end the entry of another one.
    keypads: Pool,
    /// One at a time: whoever asks while the identity is being made gets it when it is there.
    identity: Pool,
    _watch: Watch,
}

impl Token {
    /// Starts the actor on the current arbiter. A device without a token gets one in the background.
    pub fn start(settings: Settings, events: Events, watch: Watch) -> Addr<Self> {
        wake_openssl();
        // Known at once, so that a device that has its token never says that it is being made.
        let tokens = Tokens::new(&settings.places);
        let state = match tokens.device().exists() {
            true => DeviceToken::Ready,
            false => DeviceToken::Making,
        };
        Actor::start(Self {
            settings,
            tokens,
            device_token: watch::Sender::new(state),
            derivation: Pool::new("token derivation", 1),
            files: Pool::new("token files", 8),
            modules: HashMap::new(),
            signatures: Pool::new("token signatures", 2),
            roots: Pool::new("token roots", 1),
            events,
            keypads: Pool::new("keypads", 8),
            identity: Pool::new("device identity", 1),
            _watch: watch,
        })
    }
}

impl Token {
    /// What certificates vouched for until now may be out of their dates once these count (protocol.md 7.3).
    fn watch_provisioning(&self, context: &mut Context<Self>) {
        let mut provisioned = self.settings.provisioned.clone();
        if self.settings.enforce_validity || provisioned.get() {
            return;
        }
        let events = self.events.clone();
        let tell = async move {
            provisioned.entered().await;
            events.publish(Event::RootsChanged);
        };
        context.spawn(tell.into_actor(self));
    }
}

impl Actor for Token {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.watch_provisioning(context);
        if let DeviceToken::Ready = &*self.device_token.borrow() {
            return;
        }
        let token = self.tokens.device();
        let (outcome, events) = (self.device_token.clone(), self.events.clone());
        // Its own pool, so that a PIN of a container's own token need not wait for the new key.
        let pool = Pool::new("token provisioning", 1);
        let provision = async move {
            let made = pool.run(move || provision(&token)).await;
            let made = made.map_err(|died| BusError::from(died).into());
            let made = made.and_then(|made| made);
            events.audit(Did::MakeDeviceToken.here().result(&made));
            outcome.send_replace(match made {
                Ok(()) => DeviceToken::Ready,
                Err(error) => {
                    tracing::error!(%error, "self-provisioning failed");
                    DeviceToken::Failed
                }
            });
        };
        context.spawn(provision.into_actor(self));
    }
}

/// OpenSSL 3.0 sets itself up in pieces, when each is used for the first time, and a chain that is verified
/// while another thread makes the library's first key is refused for no reason. So the first use of
/// everything happens here, on one thread.
fn wake_openssl() {
    openssl::init();
    let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha512(), b"");
    let random = openssl::rand::rand_bytes(&mut [0; 16]);
    if let Err(error) = digest.map(drop).and(random).and(identity::wake()) {
        tracing::error!(%error, "openssl does not work on this machine");
    }
}

fn provision(token: &Softtoken) -> Result<(), TokenError> {
    tracing::info!(path = %token.path().display(), "making the softtoken of the device");
    token.create(&Pin::new(FIRST_PIN.to_owned()))?;
    tracing::info!(path = %token.path().display(), "the softtoken of the device is ready");
    Ok(())
}

impl Token {
    /// Runs a job with a PIN: on softtokens one at a time, on PKCS#11 tokens beside it. Without a holder the job is
    /// about the token of the device.
    fn with_pin<T: Send + 'static>(
        &mut self,
        holder: Option<&Holder>,
        job: impl FnOnce(&Tokens) -> Result<T, TokenError> + Send + 'static,
    ) -> ResponseFuture<Result<T, TokenError>> {
        let pool = match holder.map(|holder| &holder.kind) {
            Some(TokenKind::Pkcs11 { module }) => {
                let pools = self.modules.entry(module.clone());
                pools.or_insert_with(|| Pool::new("PKCS#11 module", 1))
            }
            _ => &self.derivation,
        };
        let (pool, tokens, holder) = (pool.clone(), self.tokens.clone(), holder.cloned());
        let (device_token, events) = (self.device_token.clone(), self.events.clone());
        Box::pin(async move {
            let whose = holder.clone();
            let done = pool.run(move || {
                if holder.is_none_or(|holder| tokens.needs_device(&holder)) {
                    let state = *device_token.borrow();
                    match state {
                        DeviceToken::Ready => {}
                        DeviceToken::Making => return Err(TokenError::Uninitialised),
                        // The disk was full, say, and need not be any more.
                        DeviceToken::Failed => {
                            provision(&tokens.device())?;
                            device_token.send_replace(DeviceToken::Ready);
                        }
                    }
                }
                job(&tokens)
            });
            let done = done.await.map_err(BusError::from)?;
            report::attempt(&events, whose.as_ref(), &done);
            done
        })
    }

    /// Destroys the key of a container, with what belongs to it.
    fn destroy(
        &self,
        container: ContainerId,
        job: impl FnOnce(&Tokens) -> Result<(), TokenError> + Send + 'static,
    ) -> ResponseFuture<Result<(), TokenError>> {
        let (files, tokens) = (self.files.clone(), self.tokens.clone());
        let events = self.events.clone();
        Box::pin(async move {
            let done = files.run(move || job(&tokens)).await;
            let done = done.map_err(BusError::from)?;
            events.audit(Did::RemoveKey.to(container).result(&done));
            done
        })
    }
}

impl Handler<Unlock> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: Unlock, _: &mut Context<Self>) -> Self::Result {
        let (holder, events) = (request.holder.clone(), self.events.clone());
        self.with_pin(Some(&holder), move |tokens| {
            tokens.check(&request.holder, &request.pin)?;
            report::unlocked(&events, &request.holder);
            Ok(())
        })
    }
}

impl Handler<ReleaseKey> for Token {
    type Result = ResponseFuture<Result<Key, TokenError>>;

    fn handle(&mut self, request: ReleaseKey, _: &mut Context<Self>) -> Self::Result {
        let (holder, events) = (request.holder.clone(), self.events.clone());
        self.with_pin(Some(&holder), move |tokens| {
            let new = !tokens.has_key(request.holder.container);
            let key = tokens.release(&request.holder, &request.pin, request.create)?;
            report::released(&events, &request.holder, new);
            Ok(key)
        })
    }
}

impl Handler<Core0Key> for Token {
    type Result = ResponseFuture<Result<Key, TokenError>>;

    fn handle(&mut self, request: Core0Key, _: &mut Context<Self>) -> Self::Result {
        let (files, tokens) = (self.files.clone(), self.tokens.clone());
        Box::pin(async move {
            let key = files.run(move || tokens.core0_key(request.create)).await;
            key.map_err(BusError::from)?
        })
    }
}

impl Handler<DestroyKey> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: DestroyKey, _: &mut Context<Self>) -> Self::Result {
        let id = request.container;
        self.destroy(id, move |tokens| tokens.destroy_key(id))
    }
}

impl Handler<ChangePin> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: ChangePin, _: &mut Context<Self>) -> Self::Result {
        let ChangePin { holder, old, new } = request;
        let events = self.events.clone();
        self.with_pin(holder.clone().as_ref(), move |tokens| {
            let changed = match &holder {
                None => tokens.change_device(&old, &new),
                Some(holder) => tokens.change_own(holder, &old, &new),
            };
            report::changed(&events, holder.as_ref(), &changed);
            changed
        })
    }
}

impl Handler<EnterPin> for Token {
    type Result = ResponseFuture<Result<Pin, TokenError>>;

    fn handle(&mut self, request: EnterPin, _: &mut Context<Self>) -> Self::Result {
        let keypads = self.keypads.clone();
        Box::pin(async move {
            let typed = keypads.run(move || {
                let id = request.id.parse().map_err(|error| format!("{error}"))?;
                pinpad::ask(id, &request.serial, PATIENCE).map_err(|error| error.to_string())
            });
            let typed = typed.await.map_err(BusError::from)?;
            typed.map_err(TokenError::Keypad)
        })
    }
}

impl Handler<Forget> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: Forget, _: &mut Context<Self>) -> Self::Result {
        let id = request.container;
        self.destroy(id, move |tokens| tokens.forget(id))
    }
}

impl Handler<VerifySignature> for Token {
    type Result = ResponseFuture<Result<ContainerTrust, TokenError>>;

    fn handle(&mut self, request: VerifySignature, _: &mut Context<Self>) -> Self::Result {
        let roots = self.settings.roots();
        let pool = self.signatures.clone();
        Box::pin(async move {
            pool.run(move || roots.verify(&request))
                .await
                .map_err(BusError::from)?
        })
    }
}

impl Handler<Identify> for Token {
    type Result = ResponseFuture<Result<Identity, TokenError>>;

    fn handle(&mut self, request: Identify, _: &mut Context<Self>) -> Self::Result {
        let (files, pool) = (self.settings.identity(), self.identity.clone());
        Box::pin(async move {
            let job = pool.run(move || files.identify(&request));
            job.await.map_err(BusError::from)?
        })
    }
}

impl Handler<InstallCertificate> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: InstallCertificate, _: &mut Context<Self>) -> Self::Result {
        let (files, roots) = (self.settings.identity(), self.settings.roots());
        let pool = self.identity.clone();
        Box::pin(async move {
            let job = pool.run(move || files.install(&request.certificate, &roots));
            job.await.map_err(BusError::from)?
        })
    }
}

impl Handler<RegisterCa> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: RegisterCa, _: &mut Context<Self>) -> Self::Result {
        let (roots, pool, events) = (
            self.settings.roots(),
            self.roots.clone(),
            self.events.clone(),
        );
        Box::pin(async move {
            let local = request.local;
            let register = move || roots.register(&request.certificates, local);
            let registered = pool.run(register).await.map_err(BusError::from)?;
            let note = Did::RegisterCa.here().meta("local", local);
            events.audit(note.result(&registered));
            if registered? {
                tracing::info!(local, "a CA was registered");
                events.publish(Event::RootsChanged);
            }
            Ok(())
        })
    }
}

impl Handler<ListCas> for Token {
    type Result = ResponseFuture<Result<Vec<CaCertificate>, TokenError>>;

    fn handle(&mut self, _: ListCas, _: &mut Context<Self>) -> Self::Result {
        let (roots, pool) = (self.settings.roots(), self.roots.clone());
        Box::pin(async move {
            pool.run(move || roots.list())
                .await
                .map_err(BusError::from)?
        })
    }
}

impl Handler<RemoveCa> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: RemoveCa, _: &mut Context<Self>) -> Self::Result {
        let (roots, pool, events) = (
            self.settings.roots(),
            self.roots.clone(),
            self.events.clone(),
        );
        Box::pin(async move {
            let id = request.id.clone();
            let remove = move || roots.remove(&request.id);
            let removed = pool.run(remove).await.map_err(BusError::from)?;
            events.audit(Did::RemoveCa.with(&id).result(&removed));
            removed?;
            tracing::warn!(id, "a CA is trusted no longer");
            events.publish(Event::RootsChanged);
            Ok(())
        })
    }
}
