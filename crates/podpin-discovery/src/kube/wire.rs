//! The wire format: LIST page by page, WATCH line by line; `failure.rs` has every way in which they fail.
//!
//! Raw requests instead of kube's typed ones, because those hide what has to be seen here: bookmarks, objects that
//! cannot be read, and the difference between an end and a failure. A line is read whole or not at all; nothing is
//! ever kept beyond a bound.

use std::time::Duration;

use futures_util::AsyncBufReadExt;
use kube::core::params::{GetParams, ListParams, WatchParams};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{error::Elapsed, timeout};

use crate::kube::client::{ApiClient, Reader};
use crate::kube::failure::{Failure, excerpt, with_sources};
use crate::kube::resource::{Extent, Resource, SERVICE_LABEL};

/// Objects in a page; what kubectl asks for.
const PAGE_ITEMS: u32 = 500;

/// A page of 500 slices of 100 endpoints is 13 MB, one of 500 Pods' metadata 2 MB; of the 1,000 endpoints that the API
/// allows, 130 MB would be a page that never occurs. A larger one fails with these words in the log.
const PAGE_BYTES_MAX: usize = 128 << 20;

/// etcd takes objects of 1.5 MiB; JSON is longer than what it stores. Longer ones end the watch, and the relist brings
/// them.
const LINE_BYTES_MAX: usize = 8 << 20;

/// The response to a watch begins at once, whatever there is to say; this long is no answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// An object as far as it is needed here.
pub(crate) trait Object: DeserializeOwned {
    /// The resource that the object belongs to.
    const RESOURCE: &'static Resource;

    /// Returns `metadata.resourceVersion`.
    fn version(&self) -> Option<&str>;
}

/// The objects of a namespace that are asked for.
#[derive(Debug)]
pub(crate) struct Selection {
    resource: &'static Resource,
    path: kube::core::Request,
    /// Label selector. `None` if all objects of the namespace are wanted.
    selector: Option<String>,
}

/// A page of a list.
pub(crate) struct Page {
    resource: &'static Resource,
    body: Vec<u8>,
}

/// A page as it can be read.
pub(crate) struct PageItems<'p> {
    /// Every object, readable or not.
    pub(crate) items: Vec<&'p RawValue>,
    /// The version of the whole list.
    pub(crate) version: String,
    /// Continue token of the next page.
    pub(crate) more: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'p> {
    #[serde(default)]
    kind: String,
    metadata: RawListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'p RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    more: Option<String>,
}

impl Selection {
    /// The objects in `namespace` with these labels.
    pub(crate) fn of(resource: &'static Resource, namespace: &str, selector: Option<String>) -> Selection {
        let Resource { root, plural, .. } = resource;
        let path = kube::core::Request::new(format!("/{root}/namespaces/{namespace}/{plural}"));
        Selection { resource, path, selector }
    }

    /// The objects of all namespaces, or those that belong to none.
    pub(crate) fn everywhere(resource: &'static Resource) -> Selection {
        let Resource { root, plural, .. } = resource;
        Selection { resource, path: kube::core::Request::new(format!("/{root}/{plural}")), selector: None }
    }

    /// Asks for the page after `token`, or the first one.
    pub(crate) async fn page(
        &self,
        client: &ApiClient,
        token: Option<&str>,
        within: Duration,
    ) -> Result<Page, Failure> {
        let parameters = ListParams {
            label_selector: self.selector.clone(),
            limit: Some(PAGE_ITEMS),
            continue_token: token.map(str::to_owned),
            ..ListParams::default()
        };
        let request = match self.resource.extent {
            Extent::Whole => self.path.list(&parameters),
            Extent::Metadata => self.path.list_metadata(&parameters),
        };
        let request = request.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let answer = async {
            let reader = client.send(request, "list", self.resource).await?;
            Ok(Page { resource: self.resource, body: read_page(reader).await? })
        };
        timeout(within, answer).await.map_err(|_| Failure::Silent { verb: "list", after: within })?
    }

    /// Opens a watch from `version` on, which the server ends after `within`.
    pub(crate) async fn watch(
        &self,
        client: &ApiClient,
        version: &str,
        within: Duration,
    ) -> Result<Lines, Failure> {
        let parameters = WatchParams {
            label_selector: self.selector.clone(),
            timeout: u32::try_from(within.as_secs().max(1)).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = match self.resource.extent {
            Extent::Whole => self.path.watch(&parameters, version),
            Extent::Metadata => self.path.watch_metadata(&parameters, version),
        };
        let request = request.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let opened = timeout(HEAD_TIMEOUT, client.send(request, "watch", self.resource)).await;
        let silent = |_: Elapsed| Failure::Silent { verb: "watch", after: HEAD_TIMEOUT };
        let reader = opened.map_err(silent)??;
        Ok(Lines { reader, line: Vec::new(), whole: false })
    }
}

/// Reads the object called by its namespace and name.
///
/// # Errors
/// [`Failure::Refused`] with 404 if there is none.
pub(crate) async fn read_one(
    client: &ApiClient,
    resource: &'static Resource,
    [namespace, name]: [&str; 2],
    within: Duration,
) -> Result<Value, Failure> {
    let Resource { root, plural, .. } = resource;
    let path = kube::core::Request::new(format!("/{root}/namespaces/{namespace}/{plural}"));
    let request = path.get(name, &GetParams::default());
    let request = request.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let answer = async {
        let body = read_page(client.send(request, "get", resource).await?).await?;
        serde_json::from_slice(&body).map_err(|error| Failure::Garbled(excerpt(&error.to_string())))
    };
    timeout(within, answer).await.map_err(|_| Failure::Silent { verb: "get", after: within })?
}

async fn read_page(mut reader: Reader) -> Result<Vec<u8>, Failure> {
    let broken = |error: std::io::Error| Failure::Unreachable(with_sources(&error));
    let mut body = Vec::new();
    loop {
        let chunk = reader.fill_buf().await.map_err(broken)?;
        if chunk.is_empty() {
            return Ok(body);
        }
        body.extend_from_slice(chunk);
        let length = chunk.len();
        reader.as_mut().consume(length);
        if body.len() > PAGE_BYTES_MAX {
            return Err(Failure::Garbled(format!("a page of more than {} MiB", PAGE_BYTES_MAX >> 20)));
        }
    }
}

impl Page {
    /// The objects in it.
    ///
    /// # Errors
    /// [`Failure::Garbled`] when it is something else than a list of the resource with a version: what looks like an
    /// empty list must not pass for one.
    pub(crate) fn items(&self) -> Result<PageItems<'_>, Failure> {
        let page: RawPage<'_> = serde_json::from_slice(&self.body)
            .map_err(|error| Failure::Garbled(excerpt(&error.to_string())))?;
        if !self.resource.is_list_kind(&page.kind) {
            return Err(Failure::Garbled(excerpt(&format!("its kind is {:?}", page.kind))));
        }
        if page.metadata.resource_version.is_empty() {
            return Err(Failure::Garbled("it has no resourceVersion".to_owned()));
        }
        Ok(PageItems {
            items: page.items.unwrap_or_default(),
            version: page.metadata.resource_version,
            more: page.metadata.more.filter(|token| !token.is_empty()),
        })
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    reader: Reader,
    line: Vec<u8>,
    /// Whether `line` has been handed out.
    whole: bool,
}

impl Lines {
    /// The next whole line; `None` at the end, where half a line is nothing. A call that is dropped loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        if std::mem::take(&mut self.whole) {
            self.line.clear();
        }
        loop {
            let broken = |error: std::io::Error| Failure::Unreachable(with_sources(&error));
            let chunk = self.reader.fill_buf().await.map_err(broken)?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let (part, used) = match end {
                Some(end) => (chunk.get(..end).unwrap_or_default(), end + 1),
                None => (chunk, chunk.len()),
            };
            if self.line.len() + part.len() > LINE_BYTES_MAX {
                return Err(Failure::Garbled(format!("a line of more than {} MiB", LINE_BYTES_MAX >> 20)));
            }
            self.line.extend_from_slice(part);
            self.reader.as_mut().consume(used);
            if end.is_some() {
                self.whole = true;
                return Ok(Some(&self.line));
            }
        }
    }
}

/// The content of a line of a watch.
#[derive(Debug)]
pub(crate) enum Said<O> {
    /// ADDED or MODIFIED: this is the whole object now.
    Put(Box<O>),
    /// DELETED.
    Deleted(Deleted),
    /// Nothing happened up to this version.
    Bookmark(String),
    /// ERROR.
    Failed(Failure),
    /// A word that is not in the API.
    Unknown(String),
    /// Something that cannot be read.
    Malformed(Suspect),
}

/// Metadata of an object, found without trusting the rest of it; empty texts are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// `metadata.name`.
    pub(crate) name: Option<String>,
    /// `metadata.uid`.
    pub(crate) uid: Option<String>,
    /// `metadata.resourceVersion`; of a deleted object, that of the deletion.
    pub(crate) version: Option<String>,
    /// The Service whose slice it is.
    pub(crate) service: Option<String>,
}

/// The object that was deleted; it has a name.
#[derive(Debug)]
pub(crate) struct Deleted {
    /// `metadata.name`.
    pub(crate) name: String,
    /// Everything else that is known of it.
    pub(crate) parts: Parts,
}

/// An object that cannot be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// Metadata that could be read all the same.
    pub(crate) parts: Parts,
    /// Why it cannot be read.
    pub(crate) why: String,
}

/// An object without what it is known by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nameless;

impl From<Nameless> for Suspect {
    fn from(_: Nameless) -> Suspect {
        Suspect::because("metadata.name or metadata.uid is missing")
    }
}

#[derive(Deserialize)]
struct RawLine<'l> {
    #[serde(default, rename = "type")]
    word: String,
    #[serde(borrow, default)]
    object: Option<&'l RawValue>,
}

/// Reads an object.
///
/// # Errors
/// [`Suspect`], when it is no such object.
pub(crate) fn read_object<O: Object>(json: &str) -> Result<Box<O>, Suspect> {
    match serde_json::from_str::<O>(json) {
        Ok(object) => Ok(Box::new(object)),
        Err(error) => Err(Suspect { parts: Parts::of(json).1, why: excerpt(&error.to_string()) }),
    }
}

/// Reads a line of a watch.
pub(crate) fn read_line<O: Object>(line: &[u8]) -> Said<O> {
    let raw: RawLine<'_> = match serde_json::from_slice(line) {
        Ok(raw) => raw,
        Err(error) => return Said::Malformed(Suspect::because(&error.to_string())),
    };
    let object = raw.object.map_or("null", RawValue::get);
    match raw.word.as_str() {
        "ADDED" | "MODIFIED" => read_object(object).map_or_else(Said::Malformed, Said::Put),
        "DELETED" => deleted(object, O::RESOURCE),
        "BOOKMARK" => bookmark(object),
        "ERROR" => Said::Failed(status(object, O::RESOURCE)),
        // An error page with status 200.
        "" if raw.object.is_none() => Said::Failed(status(&String::from_utf8_lossy(line), O::RESOURCE)),
        word => Said::Unknown(excerpt(word)),
    }
}

fn deleted<O>(object: &str, resource: &Resource) -> Said<O> {
    let (kind, mut parts) = Parts::of(object);
    let fits = kind.is_none_or(|kind| resource.is_kind(&kind));
    match parts.name.take_if(|_| fits) {
        Some(name) => Said::Deleted(Deleted { name, parts }),
        None => Said::Malformed(Suspect { parts, why: format!("DELETED of no {}", resource.kind) }),
    }
}

fn bookmark<O>(object: &str) -> Said<O> {
    match Parts::of(object).1.version {
        Some(version) => Said::Bookmark(version),
        None => Said::Malformed(Suspect::because("BOOKMARK without a version")),
    }
}

fn status(object: &str, resource: &'static Resource) -> Failure {
    let value: Value = serde_json::from_str(object).unwrap_or_default();
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let code = value.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let asked = value.get("details").and_then(|details| details.get("retryAfterSeconds")?.as_u64());
    match text("reason") {
        "Expired" | "Gone" => Failure::Expired,
        _ => Failure::of_status(code.unwrap_or_default(), text("message"), "watch", resource)
            .asking_to_wait(asked.map(Duration::from_secs)),
    }
}

impl Parts {
    /// With its kind, if it says one.
    fn of(json: &str) -> (Option<String>, Parts) {
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let metadata = value.get("metadata");
        let of_metadata =
            |key: &str| text(metadata.and_then(|metadata| metadata.get(key))).filter(|text| !text.is_empty());
        let labels = metadata.and_then(|metadata| metadata.get("labels"));
        let parts = Parts {
            name: of_metadata("name"),
            uid: of_metadata("uid"),
            version: of_metadata("resourceVersion"),
            service: text(labels.and_then(|labels| labels.get(SERVICE_LABEL))),
        };
        // What is no text is no kind that is wanted.
        (value.get("kind").map(|kind| kind.as_str().unwrap_or_default().to_owned()), parts)
    }
}

impl Suspect {
    fn because(why: &str) -> Suspect {
        Suspect { parts: Parts::default(), why: excerpt(why) }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;
    use crate::kube::pods::Pod;
    use crate::kube::slices::SLICES;

    #[test]
    fn what_only_looks_like_an_empty_list_is_none() {
        let read_as =
            |resource, body: &str| Page { resource, body: body.into() }.items().map(|page| page.items.len());
        let read = |body: &str| read_as(&SLICES, body);
        let good = r#"{"kind":"EndpointSliceList","metadata":{"resourceVersion":"7"},"items":"#;
        assert_eq!(read(&format!("{good}[]}}")), Ok(0));
        assert_eq!(read(&format!("{good}null}}")), Ok(0));
        assert_eq!(read(&format!("{good}[1,\"x\",{{}}]}}")), Ok(3), "each is judged by itself");
        let bad = [
            "",
            "{}",
            "[]",
            r#"{"kind":"EndpointSliceList","metadata":{},"items":[]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[]}"#,
            r#"{"kind":"Status","metadata":{"resourceVersion":"7"},"code":500}"#,
            r#"{"kind":"EndpointSliceList","metadata":{"resourceVersion":"7"},"items":["#,
        ];
        for body in bad {
            assert!(matches!(read(body), Err(Failure::Garbled(_))), "{body}");
        }
        for (kind, is_pods) in
            [("PodList", true), ("PartialObjectMetadataList", true), ("EndpointSliceList", false)]
        {
            let body = format!(r#"{{"kind":"{kind}","metadata":{{"resourceVersion":"7"}},"items":[]}}"#);
            assert_eq!(read_as(Pod::RESOURCE, &body).is_ok(), is_pods, "{kind}");
        }
        let partial = r#"{"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"7"},"items":[]}"#;
        assert!(read(partial).is_err(), "slices are wanted whole");
    }

    #[test]
    fn the_lines_of_a_watch_are_told_apart() {
        let said = |line: &str| match read_line::<EndpointSlice>(line.as_bytes()) {
            Said::Put(slice) => format!("put {}", slice.metadata.name.unwrap_or_default()),
            Said::Deleted(deleted) => format!("deleted {}", deleted.name),
            Said::Bookmark(version) => format!("bookmark {version}"),
            Said::Failed(Failure::Expired) => "expired".into(),
            Said::Failed(failure) => format!("failed {failure}"),
            Said::Unknown(word) => format!("unknown {word}"),
            Said::Malformed(suspect) => {
                format!("malformed {:?} {:?}", suspect.parts.name, suspect.parts.service)
            }
        };
        let metadata =
            r#""metadata":{"name":"c","resourceVersion":"9","labels":{"kubernetes.io/service-name":"chat"}}"#;
        let cases = [
            (format!(r#"{{"type":"ADDED","object":{{{metadata}}}}}"#), "put c"),
            (format!(r#"{{"type":"MODIFIED","object":{{"endpoints":null,{metadata}}}}}"#), "put c"),
            (format!(r#"{{"type":"DELETED","object":{{"endpoints":"?",{metadata}}}}}"#), "deleted c"),
            (format!(r#"{{"type":"BOOKMARK","object":{{{metadata}}}}}"#), "bookmark 9"),
            (r#"{"type":"ERROR","object":{"code":410}}"#.into(), "expired"),
            (r#"{"type":"ERROR","object":{"reason":"Expired"}}"#.into(), "expired"),
            (r#"{"kind":"Status","code":410}"#.into(), "expired"),
            (
                r#"{"type":"ERROR","object":{"code":500,"message":"etcd"}}"#.into(),
                "failed the API server answers watch with 500: etcd",
            ),
            (format!(r#"{{"type":"RENAMED","object":{{{metadata}}}}}"#), "unknown RENAMED"),
            (
                format!(r#"{{"type":"ADDED","object":{{"endpoints":"?",{metadata}}}}}"#),
                "malformed Some(\"c\") Some(\"chat\")",
            ),
            (
                format!(r#"{{"type":"ADDED","object":{{"kind":"Pod",{metadata}}}}}"#),
                "malformed Some(\"c\") Some(\"chat\")",
            ),
            (r#"{"type":"ADDED","object":7}"#.into(), "malformed None None"),
            ("<html>".into(), "malformed None None"),
        ];
        for (line, expected) in cases {
            assert_eq!(said(&line), expected, "{line}");
        }
    }
}
