//! The way to the API server: which configuration, and which credentials.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use secrecy::{ExposeSecret, SecretString};

use crate::kube::client::ApiClient;
use crate::kube::token::{self, TokenFile};
use crate::kube::{KubeError, KubeSettings};

/// A client, and the namespace that is meant where none is named.
pub(crate) struct Cluster {
    /// Shares nothing with other clients.
    pub(crate) client: ApiClient,
    /// The Pod's own, else that of the context, else `default`.
    pub(crate) namespace: String,
}

impl Cluster {
    /// Reads the configuration as it is now. Makes no request (but runs the credential plugin of a kubeconfig that
    /// has one).
    ///
    /// # Errors
    /// When there is no configuration, or none that a client can be made of.
    pub(crate) async fn reach(settings: &KubeSettings) -> Result<Cluster, KubeError> {
        // Someone else in the process may have installed it before; it is the same then.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = configuration(settings).await?;
        let token = take_token(&mut config.auth_info)?;
        let namespace = config.default_namespace.clone();
        // A credential plugin blocks.
        let made = tokio::task::spawn_blocking(move || ApiClient::new(&config, token)).await;
        match made {
            Ok(client) => Ok(Cluster { client: client.map_err(KubeError::Client)?, namespace }),
            Err(panicked) => Err(KubeError::Plugin(panicked.to_string())),
        }
    }
}

/// Takes the file of the token out of the credentials, if it is what counts among them, and white space around a token that
/// is written out: kube would put both into the header as they are.
fn take_token(user: &mut AuthInfo) -> Result<Option<Arc<TokenFile>>, KubeError> {
    let has_password = user.username.is_some() && user.password.is_some();
    if user.auth_provider.is_some() || has_password {
        return Ok(None);
    }
    if let Some(written) = &user.token {
        let content = written.expose_secret().trim().to_owned();
        let refused =
            |error| KubeError::Token { place: "the token of the kubeconfig's user".to_owned(), error };
        token::authorization(content.as_bytes()).map_err(refused)?;
        user.token = Some(SecretString::from(content));
        return Ok(None);
    }
    let Some(path) = user.token_file.take() else { return Ok(None) };
    let opened = TokenFile::open(Path::new(&path));
    let refused = |error| KubeError::Token { place: format!("the token file {path}"), error };
    opened.map(|file| Some(Arc::new(file))).map_err(refused)
}

/// Returns a digest of everything that a client would be made of now: if it differs, so would the client. Makes no
/// request and runs no credential plugin.
///
/// What a client follows by itself is left out: the file of a token, and the authority of a Pod's service account.
///
/// # Errors
/// When there is no configuration, or one that cannot be understood.
pub async fn digest(settings: &KubeSettings) -> Result<u64, KubeError> {
    let config = configuration(settings).await?;
    let mut hasher = DefaultHasher::new();
    config.cluster_url.hash(&mut hasher);
    config.default_namespace.hash(&mut hasher);
    config.root_cert.filter(|_| config.root_cert_file.is_none()).hash(&mut hasher);
    config.accept_invalid_certs.hash(&mut hasher);
    config.proxy_url.hash(&mut hasher);
    config.tls_server_name.hash(&mut hasher);
    let user = &config.auth_info;
    // Its maps in their order, which a value of JSON has.
    serde_json::to_value(user).ok().map(|user| user.to_string()).hash(&mut hasher);
    for file in [&user.client_certificate, &user.client_key].into_iter().flatten() {
        fs::read(file).ok().hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Returns the configuration that the operator named, else the Pod's service account, else `KUBECONFIG` and `~/.kube/config`.
async fn configuration(settings: &KubeSettings) -> Result<Config, KubeError> {
    if settings.kubeconfig.is_some() || settings.context.is_some() {
        return from_kubeconfig(settings).await;
    }
    let in_cluster = match Config::incluster() {
        Ok(config) => return Ok(config),
        Err(error) => error.to_string(),
    };
    match from_kubeconfig(settings).await {
        Err(KubeError::Kubeconfig { error, .. }) if is_missing(&error) => {
            Err(KubeError::NoCluster { in_cluster, kubeconfig: error.to_string() })
        }
        other => other,
    }
}

async fn from_kubeconfig(settings: &KubeSettings) -> Result<Config, KubeError> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let refused = |error| KubeError::Kubeconfig { file: name_of(settings.kubeconfig.as_deref()), error };
    let kubeconfig = match &settings.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    Config::from_custom_kubeconfig(kubeconfig.map_err(refused)?, &options).await.map_err(refused)
}

fn is_missing(error: &kube::config::KubeconfigError) -> bool {
    use kube::config::KubeconfigError::{FindPath, ReadConfig};
    match error {
        FindPath => true,
        ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn name_of(path: Option<&Path>) -> String {
    match path {
        Some(path) => path.display().to_string(),
        None => "KUBECONFIG or ~/.kube/config".to_owned(),
    }
}
