//! `pki`: certificates of an authority of one's own, which need neither Fulcio nor a log.
//!
//! As in containers/image, the chain has to be good now, there being nothing that proves another
//! time, and for code signing if it limits its use at all.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rustls_pki_types as types;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::{Claims, Proof};
use crate::trust::key::PublicKey;

/// The requirement `pki`.
#[derive(Clone, Debug)]
pub struct Pki {
    /// DER certificates, each believed whatever its issuer.
    pub(crate) roots: Vec<Vec<u8>>,
    /// DER certificates that may stand between.
    pub(crate) intermediates: Vec<Vec<u8>>,
    /// An e-mail address that the certificate must name.
    pub(crate) email: Option<String>,
    /// A host that the certificate must name.
    pub(crate) hostname: Option<String>,
    /// Where `roots` are from, for messages.
    pub(crate) origin: String,
}

/// Most certificates in one PEM file.
const MAX_CERTIFICATES: usize = 64;

// === impl Pki ===

impl Pki {
    /// Whether every certificate can serve, so that a policy is refused when it is loaded.
    pub(crate) fn check(&self) -> Result<(), String> {
        for der in self.roots.iter().chain(&self.intermediates) {
            anchor_from_trusted_cert(&types::CertificateDer::from(der.as_slice()))
                .map_err(|e| format!("a certificate that cannot be used: {e}"))?;
        }
        Ok(())
    }

    /// The key and names of the first of `certificates`, if an authority vouches for it, by way of
    /// the rest where it needs them.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn verify(&self, certificates: &[&[u8]]) -> Result<(PublicKey, Proof), String> {
        let [leaf, brought @ ..] = certificates else {
            return Err("signed by a key, not by a certificate".into());
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let roots: Vec<types::CertificateDer<'_>> =
            self.roots.iter().map(|it| it.as_slice().into()).collect();
        let anchors = roots
            .iter()
            .map(|der| anchor_from_trusted_cert(der).map_err(|e| format!("root: {e}")))
            .collect::<Result<Vec<_>, _>>()?;
        let between: Vec<types::CertificateDer<'_>> = self
            .intermediates
            .iter()
            .map(Vec::as_slice)
            .chain(brought.iter().copied())
            .map(Into::into)
            .collect();
        let der = types::CertificateDer::from(*leaf);
        let end = EndEntityCert::try_from(&der).map_err(|e| format!("certificate: {e}"))?;
        end.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &between,
            types::UnixTime::since_unix_epoch(now),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            None,
        )
        .map_err(|e| format!("certificate is not by {}: {e}", self.origin))?;
        let Names {
            spki,
            emails,
            other,
        } = names(leaf)?;
        if let Some(email) = &self.email
            && !emails.contains(email)
        {
            return Err(format!(
                "certificate is for {}, not for e-mail {email}",
                shown(&emails, &other)
            ));
        }
        if let Some(hostname) = &self.hostname {
            let name = types::ServerName::try_from(hostname.as_str())
                .map_err(|_| format!("subjectHostname {hostname:?} is not a host"))?;
            end.verify_is_valid_for_subject_name(&name).map_err(|_| {
                format!(
                    "certificate is for {}, not for host {hostname}",
                    shown(&emails, &other)
                )
            })?;
        }
        let key =
            PublicKey::from_spki(&spki, "of the certificate".into()).map_err(|e| e.to_string())?;
        let proof = Proof {
            key: spki,
            certificate: Some(Claims {
                subject: shown(&emails, &other),
                ..Claims::default()
            }),
            time: None,
        };
        Ok((key, proof))
    }
}

impl fmt::Display for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = [("e-mail", &self.email), ("host", &self.hostname)]
            .into_iter()
            .filter_map(|(kind, name)| name.as_ref().map(|name| format!("{kind} {name}")))
            .collect();
        write!(
            f,
            "{} by certificate of {}",
            names.join(" and "),
            self.origin
        )
    }
}

/// DER content of the OID 1.3.6.1.5.5.7.3.3, `id-kp-codeSigning`.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

/// Whom a certificate names, and his key.
struct Names {
    spki: Vec<u8>,
    emails: Vec<String>,
    /// Hosts and URIs.
    other: Vec<String>,
}

fn names(der: &[u8]) -> Result<Names, String> {
    let malformed = |e: x509_cert::der::Error| format!("certificate: {e}");
    let certificate = Certificate::from_der(der).map_err(malformed)?;
    let body = &certificate.tbs_certificate;
    let spki = body.subject_public_key_info.to_der().map_err(malformed)?;
    let (mut emails, mut other) = (Vec::new(), Vec::new());
    if let Some((_, names)) = body.get::<SubjectAltName>().map_err(malformed)? {
        for name in &names.0 {
            match name {
                GeneralName::Rfc822Name(email) => emails.push(email.to_string()),
                GeneralName::DnsName(host) => other.push(host.to_string()),
                GeneralName::UniformResourceIdentifier(uri) => other.push(uri.to_string()),
                _ => {}
            }
        }
    }
    Ok(Names {
        spki,
        emails,
        other,
    })
}

fn shown(emails: &[String], other: &[String]) -> String {
    let all: Vec<&str> = emails.iter().chain(other).map(String::as_str).collect();
    match all.as_slice() {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    }
}

/// Whether a certificate names itself as its issuer, as those of authorities at the end do. What
/// cannot be read is left to the verifier.
pub(super) fn is_self_issued(der: &[u8]) -> bool {
    Certificate::from_der(der)
        .is_ok_and(|it| it.tbs_certificate.issuer == it.tbs_certificate.subject)
}

/// The DER certificates of a PEM file that holds at least one and nothing else.
pub(crate) fn certificates_of_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "not PEM text")?;
    let mut certificates = Vec::new();
    for block in text.split_inclusive("-----END CERTIFICATE-----") {
        if !block.contains("-----BEGIN ") {
            continue;
        }
        if certificates.len() == MAX_CERTIFICATES {
            return Err(format!("more than {MAX_CERTIFICATES} certificates"));
        }
        let (label, der) = crate::trust::key::decode_pem(block.as_bytes())?;
        if label != "CERTIFICATE" {
            return Err(format!("want PEM blocks CERTIFICATE, have {label}"));
        }
        certificates.push(der.to_vec());
    }
    match certificates.is_empty() {
        true => Err("no PEM block CERTIFICATE".into()),
        false => Ok(certificates),
    }
}
