//! Objects read once, for commands that look at a cluster and end: Ingresses, their classes, Services and ConfigMaps.
//!
//! No Secret is ever read. Lists come page by page, as in `wire.rs`.

use serde_json::Value;

use crate::kube::client::ApiClient;
use crate::kube::cluster::Cluster;
use crate::kube::failure::Failure;
use crate::kube::resource::{Extent, Resource};
use crate::kube::wire::{Selection, read_one};
use crate::kube::{KubeError, KubeSettings};

static INGRESSES: Resource = Resource {
    kind: "Ingress",
    plural: "ingresses",
    group: "networking.k8s.io",
    root: "apis/networking.k8s.io/v1",
    extent: Extent::Whole,
};

static INGRESS_CLASSES: Resource = Resource {
    kind: "IngressClass",
    plural: "ingressclasses",
    group: "networking.k8s.io",
    root: "apis/networking.k8s.io/v1",
    extent: Extent::Whole,
};

static SERVICES: Resource =
    Resource { kind: "Service", plural: "services", group: "", root: "api/v1", extent: Extent::Whole };

static CONFIG_MAPS: Resource =
    Resource { kind: "ConfigMap", plural: "configmaps", group: "", root: "api/v1", extent: Extent::Whole };

/// Why objects could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// There is no way to the cluster.
    #[error(transparent)]
    Cluster(#[from] KubeError),
    /// The API server did not answer as it should.
    #[error("{0}")]
    Failed(String),
}

impl From<Failure> for InventoryError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.to_string())
    }
}

/// A reader of objects of one cluster.
pub struct Inventory {
    client: ApiClient,
    settings: KubeSettings,
}

impl Inventory {
    /// Finds the way to the cluster.
    ///
    /// # Errors
    /// [`InventoryError::Cluster`] if there is none.
    pub async fn open(settings: KubeSettings) -> Result<Self, InventoryError> {
        let client = Cluster::reach(&settings).await?.client()?;
        Ok(Self { client, settings })
    }

    /// Reads Ingresses, IngressClasses and Services, those of `namespace` or of all.
    ///
    /// # Errors
    /// [`InventoryError::Failed`] if any of them cannot be listed. IngressClasses are left out if it may not list them: they belong
    /// to no namespace.
    pub async fn ingresses(&self, namespace: Option<&str>) -> Result<Vec<Value>, InventoryError> {
        let mut objects = self.list(&INGRESSES, namespace).await?;
        objects.extend(self.list(&SERVICES, namespace).await?);
        match self.list(&INGRESS_CLASSES, None).await {
            Ok(classes) => objects.extend(classes),
            Err(Failure::Refused { code: 403, .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
        Ok(objects)
    }

    /// Reads a ConfigMap; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`InventoryError::Failed`] if it cannot be read.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Value>, InventoryError> {
        match read_one(&self.client, &CONFIG_MAPS, [namespace, name], self.settings.list_timeout).await {
            Ok(value) => Ok(Some(value)),
            Err(Failure::Refused { code: 404, .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn list(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Failure> {
        let selection = match namespace {
            Some(namespace) => Selection::of(resource, namespace, None),
            None => Selection::everywhere(resource),
        };
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = selection.page(&self.client, token.as_deref(), self.settings.list_timeout).await?;
            let items = page.items()?;
            for item in &items.items {
                let mut value: Value =
                    serde_json::from_str(item.get()).map_err(|error| Failure::Garbled(error.to_string()))?;
                if let Some(object) = value.as_object_mut() {
                    // Items of a list leave their kind out.
                    object.insert("kind".to_owned(), resource.kind.into());
                }
                objects.push(value);
            }
            token = items.more.clone();
            if token.is_none() {
                return Ok(objects);
            }
        }
    }
}
