//! Session tickets under keys that replicas share (RFC 8446 section 4.6.1, RFC 5077), so that a client resumes at any of them.
//!
//! A ticket is a key's name, a salt, and the session under a key of its own: AES-256-GCM with a key that HMAC-SHA-256 makes of the
//! master key and the salt, so that no number of tickets is too many for one key. Master keys are made of a file's material and of
//! what a session may be used for: a ticket of a listener that trusts other client certificates, or none, is of no use.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use podpin_config::FileAt;
use rustls::pki_types::CertificateDer;
use rustls::server::ProducesTickets;

use crate::net::tls::certificate::fault;
use crate::net::tls::error::TlsError;
use crate::net::tls::pem;

/// Time for which a ticket is good, in seconds: that of rustls' own.
const LIFETIME: u32 = 12 * 60 * 60;
/// Bytes of key material that a file has at least.
const MATERIAL_BYTES_MIN: usize = 32;
const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 16;

/// Session tickets under keys from files: the first encrypts, all decrypt.
#[derive(Debug)]
pub(super) struct SharedTickets {
    keys: Vec<TicketKey>,
}

/// A key of tickets.
struct TicketKey {
    /// The name by which a ticket says that it is under this key.
    name: [u8; NAME_BYTES],
    master: hmac::Key,
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TicketKey").finish_non_exhaustive()
    }
}

impl SharedTickets {
    /// Reads the keys of a listener; `path` is the place of its TLS in the configuration. `trust` says whether clients have to
    /// show a certificate, and the authorities of these; `None` if none is asked for.
    ///
    /// # Errors
    /// Names the file at fault.
    pub(super) fn read(
        path: &str,
        files: &[FileAt],
        trust: Option<(bool, &[CertificateDer<'_>])>,
    ) -> Result<SharedTickets, TlsError> {
        let use_of_sessions = match trust {
            None => Vec::new(),
            Some((required, authorities)) => {
                let mut trusted = vec![1, u8::from(required)];
                authorities.iter().for_each(|authority| trusted.extend_from_slice(authority));
                trusted
            }
        };
        let read = |(index, file): (usize, &FileAt)| {
            let failed = |error: String| fault(path, &format!("ticketKeys[{index}].file"), file, &error);
            let material = pem::read(&file.file).map_err(failed)?;
            TicketKey::new(material.trim_ascii(), &use_of_sessions).map_err(failed)
        };
        let keys: Result<Vec<_>, _> = files.iter().enumerate().map(read).collect();
        Ok(SharedTickets { keys: keys? })
    }
}

impl TicketKey {
    fn new(material: &[u8], use_of_sessions: &[u8]) -> Result<TicketKey, String> {
        if material.len() < MATERIAL_BYTES_MIN {
            return Err(format!(
                "{} bytes of key material; at least {MATERIAL_BYTES_MIN} are needed (`podpin keygen` prints a key)",
                material.len()
            ));
        }
        let derive = |label: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, material);
            hmac::sign(&key, &[label, use_of_sessions].concat())
        };
        let mut name = [0; NAME_BYTES];
        let named = derive(b"podpin session tickets: name\0");
        name.iter_mut().zip(named.as_ref()).for_each(|(to, from)| *to = *from);
        let master = derive(b"podpin session tickets: key\0");
        Ok(TicketKey { name, master: hmac::Key::new(hmac::HMAC_SHA256, master.as_ref()) })
    }

    /// Returns the key of the ticket with this salt.
    fn of_ticket(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let key = hmac::sign(&self.master, salt);
        UnboundKey::new(&AES_256_GCM, key.as_ref()).ok().map(LessSafeKey::new)
    }

    fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).ok()?;
        let mut sealed = session.to_vec();
        // Each key seals one ticket.
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        self.of_ticket(&salt)?.seal_in_place_append_tag(nonce, Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name, &salt, &*sealed].concat())
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (salt, sealed) = ticket.strip_prefix(&self.name)?.split_at_checked(SALT_BYTES)?;
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let opened = self.of_ticket(salt)?.open_in_place(nonce, Aad::from(self.name), &mut session).ok()?;
        Some(opened.to_vec())
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.first()?.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.keys.iter().find_map(|key| key.open(cipher))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tickets(materials: &[&[u8; 32]], use_of_sessions: &[u8]) -> SharedTickets {
        let keys = materials.iter().map(|material| TicketKey::new(*material, use_of_sessions).unwrap());
        SharedTickets { keys: keys.collect() }
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let (old, new) =
            (tickets(&[b"old-old-old-old-old-old-old-old!"], b""), b"new-new-new-new-new-new-new-new!");
        let both = tickets(&[new, b"old-old-old-old-old-old-old-old!"], b"");
        assert_eq!(both.decrypt(&old.encrypt(b"session").unwrap()).unwrap(), b"session");
        let by_new = both.encrypt(b"session").unwrap();
        assert_eq!(tickets(&[new], b"").decrypt(&by_new).unwrap(), b"session");
        assert_eq!(old.decrypt(&by_new), None);
        assert_ne!(both.encrypt(b"session"), Some(by_new), "each ticket has a salt of its own");
    }

    #[test]
    fn a_ticket_is_of_no_use_where_other_client_certificates_are_trusted() {
        let material = b"one-one-one-one-one-one-one-one!";
        let ticket = tickets(&[material], b"\x01\x01authority").encrypt(b"session").unwrap();
        for other in [&b""[..], b"\x01\0authority", b"\x01\x01other"] {
            assert_eq!(tickets(&[material], other).decrypt(&ticket), None);
        }
    }

    #[test]
    fn short_material_is_refused_with_what_to_do() {
        let error = TicketKey::new(b"short", b"").unwrap_err();
        assert!(error.contains("5 bytes") && error.contains("podpin keygen"), "{error}");
    }

    proptest! {
        /// Other bytes are no ticket, and no bit of a ticket can be changed.
        #[test]
        fn no_other_bytes_are_a_ticket(
            session in proptest::collection::vec(any::<u8>(), 0..200),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            (byte, bit) in (any::<prop::sample::Index>(), 0..8_u8),
            cut in any::<prop::sample::Index>(),
        ) {
            let tickets = tickets(&[b"one-one-one-one-one-one-one-one!"], b"");
            let ticket = tickets.encrypt(&session).unwrap();
            prop_assert_eq!(tickets.decrypt(&ticket), Some(session));
            prop_assert_eq!(tickets.decrypt(&noise), None);
            prop_assert_eq!(tickets.decrypt(&ticket[..cut.index(ticket.len())]), None);
            let mut changed = ticket.clone();
            changed[byte.index(ticket.len())] ^= 1 << bit;
            prop_assert_eq!(tickets.decrypt(&changed), None);
        }
    }
}
