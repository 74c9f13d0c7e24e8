//! HTTP and HTTPS, one request at a time; the client is made when it is first needed.

use std::{
    io::Read,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ureq::{
    Agent,
    http::{StatusCode, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::fetch::Fault;

/// How long a server may be silent. What is slow but alive is waited for.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a server may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);

/// What a server has to do at least, in bytes per second on average, so that an installation ends one day.
const SLOWEST: u64 = 4 << 10;

/// A server's answer to a request for the rest of a file.
pub struct Answer {
    /// Which byte of the file the body begins with.
    pub from: u64,
    /// How many bytes the server says the whole file has.
    pub size: Option<u64>,
    /// The bytes.
    pub body: Box<dyn Read + Send>,
}

/// Asks for a file of at most this size from a byte on.
pub fn get(url: &str, from: u64, limit: u64) -> Result<Answer, Fault> {
    let patience = ANSWER + Duration::from_secs(limit / SLOWEST);
    let mut request = agent()
        .get(url)
        .config()
        .timeout_recv_body(Some(patience))
        .build();
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let response = request.call().map_err(fault)?;
    let number = |name| response.headers().get(name)?.to_str().ok();
    let length = number(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    let (from, size) = match response.status() {
        StatusCode::OK => (0, length),
        StatusCode::PARTIAL_CONTENT => number(header::CONTENT_RANGE)
            .and_then(range)
            .filter(|(start, _)| *start == from)
            .ok_or_else(|| Fault::Restart("the server sent another part than asked for".into()))?,
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(Fault::Restart("the server has no more of it".into()));
        }
        status => {
            let said = format!("the server answered {status}");
            let later = status.is_server_error()
                || status == StatusCode::REQUEST_TIMEOUT
                || status == StatusCode::TOO_MANY_REQUESTS;
            return Err(match later {
                true => Fault::Passing(said),
                false => Fault::Final(said),
            });
        }
    };
    Ok(Answer {
        from,
        size,
        body: Box::new(response.into_body().into_reader()),
    })
}

/// `bytes 5-9/10`: where it begins, and the size of the whole if it is known.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, size.trim().parse().ok()))
}

/// Whether trying again may help.
fn fault(error: ureq::Error) -> Fault {
    use ureq::Error::{
        BadUri, Http, InvalidProxyUrl, Io, RedirectFailed, Rustls, TlsRequired, TooManyRedirects,
    };
    let said = error.to_string();
    match error {
        BadUri(_) | Http(_) | InvalidProxyUrl | RedirectFailed | Rustls(_) | TlsRequired
        | TooManyRedirects => Fault::Final(said),
        // A certificate that is not believed.
        Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Fault::Final(said),
        _ => Fault::Passing(said),
    }
}

/// The roots for HTTPS are those of the machine. What the images must be is in the signed configuration
/// (crypto.md 9.2, number 33).
fn agent() -> &'static Agent {
    static AGENT: OnceLock<Agent> = OnceLock::new();
    AGENT.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let roots: Vec<_> = found
            .certs
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("cmld/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            // Each image is a file of its own, and hours may lie between two of them.
            .max_idle_connections(0)
            .build()
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 0-9/*"), Some((0, None)));
        for bad in ["", "bytes */10", "bytes x-9/10", "items 5-9/10", "bytes 5"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
