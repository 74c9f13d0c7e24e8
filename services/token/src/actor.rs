//! The token actor: self-provisioning, PINs and signatures, none of which blocks the bus.

use cml_bus::{
    actor::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture},
    api::token::{
        ChangePin, DestroyKey, EnterPin, Forget, Identify, Identity, InstallCertificate,
        ReleaseKey, TokenError, Unlock, VerifySignature,
    },
    blocking::Pool,
    error::BusError,
    provisioned::Provisioned,
    secret::{Key, Pin},
    supervisor::Watch,
};
use cml_wire::proto::ContainerTrust;
use tokio::sync::watch;

use crate::{
    identity::{self, DeviceFiles},
    pinpad::{self, PATIENCE},
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
    fn tokens(&self) -> Tokens {
        Tokens::new(&self.places)
    }

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
    device_token: watch::Sender<DeviceToken>,
    /// One job at a time: a flood of wrong PINs never takes more than one core (design.md section 3).
    derivation: Pool,
    signatures: Pool,
    /// Each entry waits for whoever types; a client that is gone does not end the entry of another one.
    keypads: Pool,
    /// One at a time: whoever asks while the identity is being made gets it when it is there.
    identity: Pool,
    _watch: Watch,
}

impl Token {
    /// Starts the actor on the current arbiter. A device without a token gets one in the background.
    pub fn start(settings: Settings, watch: Watch) -> Addr<Self> {
        wake_openssl();
        // Known at once, so that a device that has its token never says that it is being made.
        let state = match settings.tokens().device().exists() {
            true => DeviceToken::Ready,
            false => DeviceToken::Making,
        };
        Actor::start(Self {
            settings,
            device_token: watch::Sender::new(state),
            derivation: Pool::new("token derivation", 1),
            signatures: Pool::new("token signatures", 2),
            keypads: Pool::new("keypads", 8),
            identity: Pool::new("device identity", 1),
            _watch: watch,
        })
    }
}

impl Actor for Token {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let DeviceToken::Ready = &*self.device_token.borrow() {
            return;
        }
        let token = self.settings.tokens().device();
        let outcome = self.device_token.clone();
        // Its own pool, so that a PIN of a container's own token need not wait for the new key.
        let pool = Pool::new("token provisioning", 1);
        let provision = async move {
            let made = pool.run(move || provision(&token)).await;
            let made = made.map_err(|died| BusError::from(died).into());
            outcome.send_replace(match made.and_then(|made| made) {
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
    /// Runs a job on the tokens, one at a time. `on_device` says whether it needs the token of the device.
    fn derive<T: Send + 'static>(
        &self,
        on_device: impl FnOnce(&Tokens) -> bool + Send + 'static,
        job: impl FnOnce(&Tokens) -> Result<T, TokenError> + Send + 'static,
    ) -> ResponseFuture<Result<T, TokenError>> {
        let tokens = self.settings.tokens();
        let device_token = self.device_token.clone();
        let pool = self.derivation.clone();
        Box::pin(async move {
            pool.run(move || {
                if on_device(&tokens) {
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
            })
            .await
            .map_err(BusError::from)?
        })
    }
}

impl Handler<Unlock> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: Unlock, _: &mut Context<Self>) -> Self::Result {
        let holder = request.holder.clone();
        self.derive(
            move |tokens| tokens.needs_device(&holder),
            move |tokens| tokens.check(&request.holder, &request.pin),
        )
    }
}

impl Handler<ReleaseKey> for Token {
    type Result = ResponseFuture<Result<Key, TokenError>>;

    fn handle(&mut self, request: ReleaseKey, _: &mut Context<Self>) -> Self::Result {
        let holder = request.holder.clone();
        self.derive(
            move |tokens| tokens.needs_device(&holder),
            move |tokens| tokens.release(&request.holder, &request.pin, request.create),
        )
    }
}

impl Handler<DestroyKey> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: DestroyKey, _: &mut Context<Self>) -> Self::Result {
        self.derive(
            |_| false,
            move |tokens| tokens.destroy_key(request.container),
        )
    }
}

impl Handler<ChangePin> for Token {
    type Result = ResponseFuture<Result<(), TokenError>>;

    fn handle(&mut self, request: ChangePin, _: &mut Context<Self>) -> Self::Result {
        let ChangePin { holder, old, new } = request;
        let on_device = holder.clone();
        self.derive(
            move |tokens| on_device.is_none_or(|holder| tokens.needs_device(&holder)),
            move |tokens| match &holder {
                None => tokens.change_device(&old, &new),
                Some(holder) => tokens.change_own(holder, &old, &new),
            },
        )
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
        self.derive(|_| false, move |tokens| tokens.forget(request.container))
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
