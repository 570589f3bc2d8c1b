//! `[metrics]`: where Prometheus and probes ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address that answers HTTP; empty for none.
    pub address: String,
    /// The address need not be on loopback.
    pub insecure_remote: bool,
}

// === impl MetricsConfig ===

impl MetricsConfig {
    /// The address, if there is to be one.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if it is none, or one that would need
    /// `insecure_remote`.
    pub fn address(&self) -> Result<Option<SocketAddr>> {
        if self.address.is_empty() {
            return Ok(None);
        }
        let wrong =
            |why: &str| Error::invalid(format!("metrics.address = {:?}: {why}", self.address));
        let address = match self.address.strip_prefix("localhost:") {
            Some(port) => {
                let port = port.parse().map_err(|_| wrong("its port is none"))?;
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
            }
            None => self
                .address
                .parse()
                .map_err(|_| wrong("want IP:PORT, for instance 127.0.0.1:8234"))?,
        };
        if !address.ip().to_canonical().is_loopback() && !self.insecure_remote {
            return Err(wrong("not on loopback").with_hint(
                "nobody is authenticated there; metrics.insecure_remote = true allows it",
            ));
        }
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_told_otherwise() {
        let address = |address: &str, insecure_remote| {
            let address = address.to_owned();
            MetricsConfig {
                address,
                insecure_remote,
            }
            .address()
        };
        assert_eq!(address("", false).unwrap(), None);
        for (text, means) in [
            ("127.0.0.1:8234", "127.0.0.1:8234"),
            ("127.9.9.9:1", "127.9.9.9:1"),
            ("[::1]:0", "[::1]:0"),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1"),
            ("localhost:8000", "127.0.0.1:8000"),
        ] {
            let found = address(text, false).unwrap().unwrap();
            assert_eq!(found.to_string(), means);
        }
        for text in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            let error = address(text, false).unwrap_err();
            assert!(error.to_string().contains("not on loopback"), "{error}");
            assert!(error.hint().unwrap().contains("insecure_remote"));
            assert!(address(text, true).unwrap().is_some());
        }
        for text in [
            ":8234",
            "8234",
            "localhost",
            "localhost:x",
            "localhost:70000",
            "host:1",
        ] {
            assert!(address(text, true).is_err(), "{text}");
        }
    }
}
