//! The way to the API server: which configuration, and which credentials.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use secrecy::{ExposeSecret, SecretString};

use crate::kube::client::{ApiClient, Credentials};
use crate::kube::plugin::Plugin;
use crate::kube::token::{self, TokenFile};
use crate::kube::{KubeError, KubeSettings};

/// The way to the API server, and the namespace that is meant where none is named.
pub(crate) struct Cluster {
    config: Arc<Config>,
    /// The credentials that are not in `config`.
    pub(crate) credentials: Credentials,
    /// The Pod's own, else that of the context, else `default`.
    pub(crate) namespace: String,
}

impl Cluster {
    /// Reads the configuration as it is now. Makes no request (but runs the credential plugin of a kubeconfig that
    /// has one, unless its last credential is still good).
    ///
    /// # Errors
    /// When there is no configuration, or none that a client can be made of.
    pub(crate) async fn reach(settings: &KubeSettings) -> Result<Cluster, KubeError> {
        // Someone else in the process may have installed it before; it is the same then.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = configuration(settings).await?;
        let credentials = take_credentials(&mut config.auth_info)?;
        if let Credentials::Plugin(plugin) = &credentials {
            plugin.obtain(settings.plugin_timeout).await?;
        }
        let namespace = config.default_namespace.clone();
        Ok(Cluster { config: Arc::new(config), credentials, namespace })
    }

    /// Makes a client, which shares its credentials with others of this cluster, and nothing else.
    ///
    /// # Errors
    /// [`KubeError::Client`] if a certificate, a key or a proxy is wrong.
    pub(crate) fn client(&self) -> Result<ApiClient, KubeError> {
        ApiClient::new(Arc::clone(&self.config), self.credentials.clone()).map_err(KubeError::Client)
    }
}

/// Takes the file of the token or the plugin out of the credentials, whichever counts among them, and white space around a token
/// that is written out: kube would put tokens into the header as they are.
fn take_credentials(user: &mut AuthInfo) -> Result<Credentials, KubeError> {
    if let Some(provider) = &user.auth_provider {
        return Err(KubeError::AuthProvider(provider.name.clone()));
    }
    let exec = user.exec.take();
    if user.username.is_some() && user.password.is_some() {
        return Ok(Credentials::Fixed);
    }
    if let Some(written) = &user.token {
        let content = written.expose_secret().trim().to_owned();
        let refused =
            |error| KubeError::Token { place: "the token of the kubeconfig's user".to_owned(), error };
        token::authorization(content.as_bytes()).map_err(refused)?;
        user.token = Some(SecretString::from(content));
        return Ok(Credentials::Fixed);
    }
    if let Some(path) = user.token_file.take() {
        let opened = TokenFile::open(Path::new(&path));
        let refused = |error| KubeError::Token { place: format!("the token file {path}"), error };
        return opened.map(|file| Credentials::File(Arc::new(file))).map_err(refused);
    }
    Ok(exec.map_or(Credentials::Fixed, |exec| Credentials::Plugin(Plugin::of(&exec))))
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
    let mut config = found_configuration(settings).await?;
    // The file of a Pod's namespace may have been written by hand.
    config.default_namespace = config.default_namespace.trim().to_owned();
    Ok(config)
}

async fn found_configuration(settings: &KubeSettings) -> Result<Config, KubeError> {
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
    let kubeconfig = kubeconfig.map_err(refused)?;
    let named = proxy_named_in(&kubeconfig, settings.context.as_deref());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refused)?;
    if !named && let Some(proxy) = &config.proxy_url {
        let excepted = ["NO_PROXY", "no_proxy"].iter().find_map(|name| std::env::var(name).ok());
        if !is_proxied(&config.cluster_url, proxy, &excepted.unwrap_or_default()) {
            config.proxy_url = None;
        }
    }
    Ok(config)
}

/// Whether the cluster of a context names a proxy. Like for client-go, no exception of the environment counts then.
fn proxy_named_in(kubeconfig: &Kubeconfig, context: Option<&str>) -> bool {
    let context = context.or(kubeconfig.current_context.as_deref());
    let is_meant = |name: &str| context == Some(name);
    let context =
        kubeconfig.contexts.iter().find(|one| is_meant(&one.name)).and_then(|one| one.context.as_ref());
    let cluster = context.and_then(|context| {
        kubeconfig.clusters.iter().find(|one| one.name == context.cluster)?.cluster.as_ref()
    });
    cluster.and_then(|cluster| cluster.proxy_url.as_deref()).is_some_and(|url| !url.is_empty())
}

/// Whether a server is reached by the proxy of the environment, beside the exceptions of `NO_PROXY`.
fn is_proxied(server: &Uri, proxy: &Uri, excepted: &str) -> bool {
    let matcher = Matcher::builder().all(proxy.to_string()).no(excepted).build();
    matcher.intercept(server).is_some()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_no_proxy_names_is_reached_without_the_proxy_of_the_environment() {
        let proxy = Uri::from_static("http://proxy.example:3128");
        let cases = [
            ("", true),
            ("*", false),
            ("api.example", false),
            ("other.example,.example", false),
            ("other.example", true),
            ("10.0.0.0/8", true),
        ];
        for (excepted, expected) in cases {
            let server = Uri::from_static("https://api.example:6443/");
            assert_eq!(is_proxied(&server, &proxy, excepted), expected, "{excepted}");
        }
        let address = Uri::from_static("https://10.96.0.1/");
        assert!(
            !is_proxied(&address, &proxy, "localhost,10.0.0.0/8") && is_proxied(&address, &proxy, "10.0.0.1")
        );
    }

    #[test]
    fn a_proxy_is_named_by_the_cluster_of_the_context() {
        let text = "{contexts: [{name: a, context: {cluster: with, user: u}}, {name: b, context: {cluster: without, user: u}}], \
                    clusters: [{name: with, cluster: {server: x, proxy-url: 'http://p'}}, \
                               {name: without, cluster: {server: x}}], current-context: a}";
        let kubeconfig: Kubeconfig = serde_saphyr::from_str(text).unwrap();
        assert!(proxy_named_in(&kubeconfig, None) && proxy_named_in(&kubeconfig, Some("a")));
        assert!(!proxy_named_in(&kubeconfig, Some("b")) && !proxy_named_in(&kubeconfig, Some("c")));
    }
}
