//! An independent idea of what a set of slices means: strings and lookups in raw JSON, nothing of the code under test.
//!
//! Endpoints are written down one after the other, slices by version, as a person would with a pencil: a line with the
//! same uid is crossed out when the new one may replace it. Within a slice there is no older and newer: those that are less
//! able to serve are written first, so that the others replace them. In the end, of the lines with one address the one
//! that is best able to serve stays, then the one of the slice that was made last.

use std::collections::BTreeMap;

use podpin_discovery::PortRef;
use podpin_endpoints::EndpointId;
use serde_json::Value;

use crate::recording::Step;

pub(crate) struct Model {
    port: PortRef,
    objects: BTreeMap<String, Value>,
}

#[derive(Clone)]
struct Line {
    uid: String,
    address: String,
    terminating: bool,
    ability: u8,
    made: String,
    id: EndpointId,
    text: String,
}

impl Model {
    pub(crate) fn new(port: &PortRef) -> Model {
        Model { port: port.clone(), objects: BTreeMap::new() }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::List(items) => {
                self.objects = items.iter().map(|item| (name(item), item.clone())).collect();
            }
            Step::Put(object) => drop(self.objects.insert(name(object), object.clone())),
            Step::Delete(name) => drop(self.objects.remove(name)),
        }
    }

    /// Returns the objects that a list would contain now.
    pub(crate) fn objects(&self) -> Vec<Value> {
        self.objects.values().cloned().collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<Line> = Vec::new();
        let mut by_version: Vec<&Value> = self.objects.values().collect();
        by_version.sort_by_key(|slice| {
            slice["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        });
        for slice in by_version {
            assert_eq!(slice["addressType"], "IPv4", "the recordings have no other");
            let Some(port) = self.number(slice) else { continue };
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            let made = slice["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
            let mut new: Vec<Line> = endpoints.map(|endpoint| line(endpoint, port, made)).collect();
            new.sort_by_key(|line| (line.ability, line.id));
            new.into_iter().for_each(|line| write(&mut lines, line));
        }
        lines.sort_by_key(|line| (line.ability, line.made.clone(), line.id));
        let addresses: BTreeMap<String, Line> =
            lines.into_iter().map(|line| (line.address.clone(), line)).collect();
        let lines = addresses.into_values();
        let mut texts: Vec<String> = lines.map(|line| line.text).collect();
        texts.sort();
        texts
    }

    fn number(&self, slice: &Value) -> Option<u64> {
        let ports = slice["ports"].as_array()?;
        let wanted = |port: &&Value| match &self.port {
            PortRef::Name(name) => port["name"] == name.as_str(),
            PortRef::Number(number) => port["port"] == *number,
        };
        ports.iter().find(wanted)?["port"].as_u64()
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn write(lines: &mut Vec<Line>, new: Line) {
    let clash = |old: &Line| old.uid == new.uid;
    if new.terminating && lines.iter().any(|old| clash(old) && !old.terminating) {
        return;
    }
    lines.retain(|old| !clash(old));
    lines.push(new);
}

fn line(endpoint: &Value, port: u64, made: &str) -> Line {
    let condition = |key: &str, otherwise: bool| endpoint["conditions"][key].as_bool().unwrap_or(otherwise);
    let ready = condition("ready", true);
    let serving = condition("serving", ready);
    let terminating = condition("terminating", false);
    let phase = if terminating {
        "draining"
    } else if ready && serving {
        "ready"
    } else {
        "resting"
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let uid = text(&endpoint["targetRef"]["uid"]);
    let address = format!("{}:{port}", text(&endpoint["addresses"][0]));
    let zones = endpoint["hints"]["forZones"].as_array().cloned().unwrap_or_default();
    let zones: Vec<String> = zones.iter().map(|zone| text(&zone["name"])).collect();
    let whole: [&str; 8] = [
        &text(&endpoint["targetRef"]["name"]),
        &uid,
        &address,
        phase,
        if serving { "true" } else { "false" },
        &text(&endpoint["zone"]),
        &text(&endpoint["nodeName"]),
        &zones.join(","),
    ];
    let can = ready && !terminating || serving;
    let ability = u8::from(phase == "ready") + u8::from(can);
    let id = EndpointId::of_pod(&uid, u16::try_from(port).unwrap());
    Line { ability, text: whole.join(" "), id, uid, address, terminating, made: made.to_owned() }
}
