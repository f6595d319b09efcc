//! A returning client: it keeps its cookies, as a browser does.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{EventStream, Request, Response};
use crate::wire::Head;

/// A client with a cookie jar. It looks at names and values only, not at attributes.
#[derive(Clone, Debug)]
pub struct Visitor {
    address: SocketAddr,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    /// A new client of the server at `address`.
    pub fn new(address: SocketAddr) -> Visitor {
        Visitor { address, cookies: BTreeMap::new() }
    }

    /// The same client, now served by another server.
    pub fn at(&self, address: SocketAddr) -> Visitor {
        Visitor { address, cookies: self.cookies.clone() }
    }

    /// The value of a cookie that it holds.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    /// Puts a cookie into the jar.
    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Sends a request with its cookies, and keeps those of the response.
    pub async fn send(&mut self, request: Request) -> Response {
        let response = self.with_cookies(request).send(self.address).await;
        self.keep(&response.head);
        response
    }

    /// An ordinary GET.
    pub async fn get(&mut self, target: &str) -> Response {
        self.send(Request::get(target)).await
    }

    /// Opens an event stream.
    pub async fn events(&mut self, target: &str) -> EventStream {
        self.open(Request::events(target)).await
    }

    /// Opens an event stream with a request of one's own.
    pub async fn open(&mut self, request: Request) -> EventStream {
        let stream = self.with_cookies(request).open(self.address).await;
        self.keep(&stream.head);
        stream
    }

    fn with_cookies(&self, request: Request) -> Request {
        if self.cookies.is_empty() {
            return request;
        }
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        request.header("Cookie", &pairs.join("; "))
    }

    fn keep(&mut self, head: &Head) {
        for cookie in head.all("set-cookie") {
            let pair = cookie.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.set_cookie(name, value);
            }
        }
    }
}
