//! The service under supervision, for the tests of its contract.

use std::path::Path;

use cml_bus::{
    actor::{System, spawn},
    api::token::TokenPort,
    event::Events,
    provisioned,
    supervisor::{Throttle, supervise},
};
use cml_token::{Places, Settings, Token, softtoken::Format};

/// Runs the test against a service on this token directory.
pub fn with_service(dir: &Path, test: impl AsyncFnOnce(TokenPort)) {
    let settings = Settings {
        places: Places {
            tokens: dir.to_owned(),
            keys: dir.to_owned(),
            modules: dir.to_owned(),
            format: Format::Hardened,
            require_pairing: false,
        },
        enforce_validity: true,
        provisioned: provisioned::mode(false).1,
    };
    System::new().block_on(async move {
        let port = TokenPort::default();
        let bound = port.clone();
        spawn(async move {
            let start =
                |watch| bound.bind(&Token::start(settings.clone(), Events::default(), watch));
            let _ = supervise("token", Throttle::default(), Events::default(), start).await;
        });
        tokio::task::yield_now().await;
        test(port).await;
    });
}
