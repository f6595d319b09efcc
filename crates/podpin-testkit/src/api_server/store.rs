//! The objects, their one global version, and what happened since.
//!
//! Without sockets: it says which objects a list holds and which events a watch begins with. The history can be
//! forgotten ([`Store::expire`]) as etcd's compaction does, and the whole store can be set back as a restored backup
//! does; both are what a client must survive.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::query::{Query, Resource, Scope};

/// An answer that is not what was asked for: a `Status` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: u16, message: &str) -> Refusal {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Refusal { code, reason, message: message.to_owned() }
    }

    /// The `Status` object that says so.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }

    pub(super) fn event(&self) -> Value {
        json!({"type": "ERROR", "object": self.status()})
    }
}

/// A change of an object. Before is `None` if it was created, after is `None` if it was deleted.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

impl Change {
    /// The watch event for someone who watches `scope`: an object that leaves the scope is deleted for them.
    pub(super) fn event_in(&self, scope: &Scope) -> Option<Value> {
        let within = |object: &Option<Arc<Value>>| object.clone().filter(|object| scope.covers(object));
        match (within(&self.before), within(&self.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(json!({"type": "ADDED", "object": scope.sent(&after)})),
            (Some(_), Some(after)) => Some(json!({"type": "MODIFIED", "object": scope.sent(&after)})),
            (Some(before), None) => {
                let mut last = scope.sent(&before);
                set_version(&mut last, self.version);
                Some(json!({"type": "DELETED", "object": last}))
            }
        }
    }
}

/// How a watch begins: these events at once, then every change from now on.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) events: Vec<Value>,
    /// From a version that has not been reached: such a watch is served in silence, for ever.
    pub(super) is_deaf: bool,
}

/// Resource, namespace, name.
type Key = (Resource, String, String);

/// All objects, as of one version.
#[derive(Clone, Debug)]
pub(super) struct Store {
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: Vec<Change>,
    /// The rest of lists that were begun, by continue token.
    pages: BTreeMap<String, (u64, Vec<Arc<Value>>)>,
    tokens: u64,
}

/// Where versions begin; nothing depends on it, but 0 and 1 have meanings of their own in the API.
const FIRST_VERSION: u64 = 400;

impl Default for Store {
    fn default() -> Store {
        Store {
            version: FIRST_VERSION,
            oldest: FIRST_VERSION,
            objects: BTreeMap::new(),
            history: Vec::new(),
            pages: BTreeMap::new(),
            tokens: 0,
        }
    }
}

impl Store {
    /// The newest version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Creates or replaces an object.
    pub(super) fn put(&mut self, mut object: Value) -> Change {
        self.version += 1;
        set_version(&mut object, self.version);
        let after = Arc::new(object);
        let before = self.objects.insert(key(&after), Arc::clone(&after));
        self.record(before, Some(after))
    }

    /// Removes an object, if it is there.
    pub(super) fn delete(&mut self, resource: Resource, namespace: &str, name: &str) -> Option<Change> {
        let before = self.objects.remove(&(resource, namespace.to_owned(), name.to_owned()))?;
        self.version += 1;
        Some(self.record(Some(before), None))
    }

    /// An object, if it is there.
    pub(super) fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Value> {
        let found = self.objects.get(&(resource, namespace.to_owned(), name.to_owned()));
        found.map(|object| Value::clone(object))
    }

    fn record(&mut self, before: Option<Arc<Value>>, after: Option<Arc<Value>>) -> Change {
        let change = Change { version: self.version, before, after };
        self.history.push(change.clone());
        change
    }

    /// Something else changed in the cluster, and everything before it is compacted away: every version and continue
    /// token that a client holds is expired.
    pub(super) fn expire(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
        self.pages.clear();
    }

    /// The objects and the version of `backup`; versions that were given out since are in the future again.
    pub(super) fn restore(&mut self, backup: &Store) {
        *self = backup.clone();
        self.pages.clear();
    }

    /// A list, or a page of one.
    ///
    /// # Errors
    /// 410 for an expired continue token, 504 for a version that is not reached yet.
    pub(super) fn list(&mut self, query: &Query) -> Result<Value, Refusal> {
        let (version, mut items) = match query.text("continue") {
            Some(token) => self.pages.get(token).cloned().ok_or_else(expired_token)?,
            None => {
                self.reached(query.number("resourceVersion").unwrap_or_default())?;
                (self.version, self.objects_in(&query.scope))
            }
        };
        let limit = query.number("limit").filter(|limit| *limit > 0);
        let most = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let rest = if items.len() > most { items.split_off(most) } else { Vec::new() };
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if !rest.is_empty() {
            self.tokens += 1;
            let token = format!("page-{}", self.tokens);
            set(&mut metadata, "continue", json!(token));
            self.pages.insert(token, (version, rest));
        }
        Ok(list_of(&query.scope, metadata, items.iter().map(|item| query.scope.sent(item)).collect()))
    }

    /// Returns the events that a watch begins with.
    ///
    /// # Errors
    /// 410 for a version that is forgotten, 400 for parameters that do not go together.
    pub(super) fn watch(&self, query: &Query) -> Result<Beginning, Refusal> {
        let added = |object: Arc<Value>| json!({"type": "ADDED", "object": query.scope.sent(&object)});
        let present = || self.objects_in(&query.scope).into_iter().map(added).collect::<Vec<_>>();
        let from = query.number("resourceVersion").unwrap_or_default();
        if query.flag("sendInitialEvents") {
            if query.text("resourceVersionMatch") != Some("NotOlderThan") {
                return Err(Refusal::new(400, "sendInitialEvents needs resourceVersionMatch=NotOlderThan"));
            }
            let mut events = present();
            events.extend(
                query
                    .flag("allowWatchBookmarks")
                    .then(|| self.bookmark(Bookmark::InitialEventsEnd, &query.scope)),
            );
            return Ok(Beginning { events, is_deaf: false });
        }
        if from == 0 {
            return Ok(Beginning { events: present(), is_deaf: false });
        }
        if from < self.oldest {
            let oldest = self.oldest;
            return Err(Refusal::new(410, &format!("too old resource version: {from} ({oldest})")));
        }
        let missed = self.history.iter().filter(|change| change.version > from);
        let events = missed.filter_map(|change| change.event_in(&query.scope)).collect();
        Ok(Beginning { events, is_deaf: from > self.version })
    }

    /// A bookmark of the newest version.
    pub(super) fn bookmark(&self, bookmark: Bookmark, scope: &Scope) -> Value {
        let mut metadata = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if bookmark == Bookmark::InitialEventsEnd {
            set(&mut metadata, "annotations", json!({"k8s.io/initial-events-end": "true"}));
        }
        let resource = scope.resource;
        let mut object =
            json!({"kind": resource.kind(), "apiVersion": resource.api_version(), "metadata": metadata});
        if resource == Resource::Slices {
            set(&mut object, "addressType", json!(""));
            set(&mut object, "endpoints", Value::Null);
            set(&mut object, "ports", Value::Null);
        }
        json!({"type": "BOOKMARK", "object": scope.sent(&object)})
    }

    fn reached(&self, version: u64) -> Result<(), Refusal> {
        if version <= self.version {
            return Ok(());
        }
        let current = self.version;
        Err(Refusal::new(504, &format!("Too large resource version: {version}, current: {current}")))
    }

    fn objects_in(&self, scope: &Scope) -> Vec<Arc<Value>> {
        self.objects.values().filter(|object| scope.covers(object)).cloned().collect()
    }
}

/// Which bookmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bookmark {
    Plain,
    InitialEventsEnd,
}

/// A list of what is in the scope.
pub(super) fn list_of(scope: &Scope, metadata: Value, items: Vec<Value>) -> Value {
    let (kind, version) = scope.list_kind();
    json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items})
}

fn expired_token() -> Refusal {
    Refusal::new(410, "The provided continue parameter is too old to display a consistent list result.")
}

fn key(object: &Value) -> Key {
    let of =
        |name| object.get("metadata").and_then(|metadata| metadata.get(name)?.as_str()).unwrap_or_default();
    (Resource::of(object), of("namespace").to_owned(), of("name").to_owned())
}

fn set_version(object: &mut Value, version: u64) {
    if let Some(metadata) = object.get_mut("metadata") {
        set(metadata, "resourceVersion", json!(version.to_string()));
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    object.as_object_mut().expect("an object").insert(name.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(parameters: &str) -> Query {
        Query::parse(&format!("/apis/discovery.k8s.io/v1/namespaces/n/endpointslices?{parameters}"), "")
            .unwrap()
    }

    fn object(name: &str, service: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": name, "labels": {"service": service}}})
    }

    fn kinds(events: &[Value]) -> Vec<(String, String)> {
        let text = |event: &Value, path| event.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
        events.iter().map(|event| (text(event, "/type"), text(event, "/object/metadata/name"))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn a_list_in_pages_is_consistent_and_its_tokens_expire() {
        let mut store = Store::default();
        (0..5).for_each(|number| drop(store.put(object(&format!("s{number}"), "a"))));
        let first = store.list(&query("limit=2")).unwrap();
        let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
        store.delete(Resource::Slices, "n", "s3");
        let second = store.list(&query(&format!("limit=2&continue={token}"))).unwrap();
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert_eq!(second["items"][1]["metadata"]["name"], "s3", "as of the first page");
        let token = second["metadata"]["continue"].as_str().unwrap().to_owned();
        let third = store.list(&query(&format!("continue={token}"))).unwrap();
        assert_eq!(third["items"].as_array().unwrap().len(), 1);
        assert!(third["metadata"].get("continue").is_none());
        store.expire();
        assert_eq!(store.list(&query(&format!("continue={token}"))).unwrap_err().code, 410);
        assert_eq!(store.list(&query("")).unwrap()["items"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_watch_resumes_where_the_list_ended() {
        let mut store = Store::default();
        store.put(object("s1", "a"));
        let listed = store.version();
        store.put(object("s2", "a"));
        store.put(object("s1", "b"));
        store.delete(Resource::Slices, "n", "s2");
        let resumed = store.watch(&query(&format!("resourceVersion={listed}"))).unwrap();
        let all = [("ADDED", "s2"), ("MODIFIED", "s1"), ("DELETED", "s2")];
        assert_eq!(kinds(&resumed.events), pairs(&all));
        let last = resumed.events[2]["object"]["metadata"]["resourceVersion"].clone();
        assert_eq!(last, store.version().to_string(), "a deletion has a version of its own");
        let narrow =
            store.watch(&query(&format!("resourceVersion={listed}&labelSelector=service=a"))).unwrap();
        let left = [("ADDED", "s2"), ("DELETED", "s1"), ("DELETED", "s2")];
        assert_eq!(kinds(&narrow.events), pairs(&left), "leaving the selector is a deletion");
    }

    #[test]
    fn a_watch_from_a_forgotten_version_is_expired_and_one_from_the_future_is_deaf() {
        let mut store = Store::default();
        store.put(object("s1", "a"));
        let old = store.version();
        let backup = store.clone();
        store.expire();
        let refused = store.watch(&query(&format!("resourceVersion={old}"))).unwrap_err();
        assert_eq!((refused.code, refused.reason), (410, "Expired"));
        let future = store.version();
        store.restore(&backup);
        let deaf = store.watch(&query(&format!("resourceVersion={future}"))).unwrap();
        assert!(deaf.is_deaf && deaf.events.is_empty());
        assert_eq!(store.list(&query(&format!("resourceVersion={future}"))).unwrap_err().code, 504);
    }

    #[test]
    fn initial_events_end_with_their_bookmark() {
        let mut store = Store::default();
        store.put(object("s1", "a"));
        let parameters = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let events = store.watch(&query(parameters)).unwrap().events;
        assert_eq!(kinds(&events), pairs(&[("ADDED", "s1"), ("BOOKMARK", "")]));
        assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(store.watch(&query("sendInitialEvents=true")).unwrap_err().code, 400);
    }
}
