//! The cryptography of all TLS in the process: AWS-LC, with the hybrid key exchange that browsers prefer (X25519MLKEM768).

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Returns the provider. The first call makes it the default of rustls, so that Pingora's connections use the same one.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        // Another default is there only if a library was quicker, which then has this one, too.
        drop(aws_lc_rs::default_provider().install_default());
        Arc::new(aws_lc_rs::default_provider())
    });
    Arc::clone(&PROVIDER)
}
