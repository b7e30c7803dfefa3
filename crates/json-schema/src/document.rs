//! Finds the identifiers (`$id`) and anchors of a schema document, and resolves references. References can
//! only point into the same document.

use std::collections::{BTreeMap, HashMap};

use fluent_uri::{Uri, UriRef};
use serde_json::Value;

/// The only accepted value of `$schema`.
pub const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Base URI of a document without an `$id`.
const DEFAULT_BASE_URI: &str = "json-schema:///";

/// Keywords whose value is a schema.
pub const ONE_SCHEMA: &[&str] = &[
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is an array of schemas.
pub const SCHEMA_LISTS: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
pub const SCHEMA_MAPS: &[&str] =
    &["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// Index of a schema resource: the document itself, or a schema in it with an `$id`.
pub type ResourceId = usize;

#[derive(Debug)]
struct Resource<'v> {
    uri: Uri<String>,
    root: &'v Value,
    anchors: HashMap<&'v str, &'v Value>,
    dynamic_anchors: BTreeMap<&'v str, &'v Value>,
}

/// Schema document with the identifiers and anchors that were found in it.
#[derive(Debug, Default)]
pub struct Document<'v> {
    resources: Vec<Resource<'v>>,
    /// Resource of each schema, keyed by the address of the schema in memory.
    places: HashMap<usize, ResourceId>,
}

/// Target of a reference.
#[derive(Clone, Copy, Debug)]
pub struct Target<'v> {
    /// Schema to which the reference points.
    pub schema: &'v Value,
    /// Resource that the schema belongs to.
    pub resource: ResourceId,
    /// Dynamic anchor that the reference names; `None` if it names no dynamic anchor.
    pub dynamic_anchor: Option<&'v str>,
}

/// Returns the address of a value, which identifies it while the document is borrowed.
pub fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

impl<'v> Document<'v> {
    /// Scans `root` for identifiers and anchors.
    ///
    /// # Errors
    /// Returns a sentence that describes the invalid identifier.
    pub fn scan(root: &'v Value) -> Result<Self, String> {
        let mut document = Self::default();
        document.resources.push(Resource {
            uri: Uri::parse(DEFAULT_BASE_URI.to_owned()).map_err(|(error, _)| error.to_string())?,
            root,
            anchors: HashMap::new(),
            dynamic_anchors: BTreeMap::new(),
        });
        document.visit(root, 0)?;
        Ok(document)
    }

    fn visit(&mut self, schema: &'v Value, mut resource: ResourceId) -> Result<(), String> {
        let Value::Object(keywords) = schema else {
            self.places.insert(address(schema), resource);
            return Ok(());
        };
        if keywords.get("$schema").is_some_and(|draft| draft != DRAFT) {
            return Err(format!("`$schema` can only be {DRAFT}."));
        }
        if let Some(id) = keywords.get("$id") {
            resource = self.identify(schema, id, resource)?;
        }
        self.places.insert(address(schema), resource);
        for keyword in ["$anchor", "$dynamicAnchor"] {
            let Some(anchor) = keywords.get(keyword) else { continue };
            let anchor = anchor.as_str().filter(|anchor| is_anchor(anchor));
            let anchor = anchor.ok_or_else(|| format!("`{keyword}` is not a name."))?;
            let resource = &mut self.resources[resource];
            if keyword == "$dynamicAnchor" {
                resource.dynamic_anchors.insert(anchor, schema);
            }
            if resource.anchors.insert(anchor, schema).is_some_and(|other| address(other) != address(schema))
            {
                return Err(format!("two schemas have the anchor `{anchor}`."));
            }
        }
        for (keyword, value) in keywords {
            match value {
                _ if ONE_SCHEMA.contains(&keyword.as_str()) => self.visit(value, resource)?,
                Value::Array(schemas) if SCHEMA_LISTS.contains(&keyword.as_str()) => {
                    schemas.iter().try_for_each(|schema| self.visit(schema, resource))?;
                }
                Value::Object(schemas) if SCHEMA_MAPS.contains(&keyword.as_str()) => {
                    schemas.values().try_for_each(|schema| self.visit(schema, resource))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn identify(&mut self, schema: &'v Value, id: &Value, within: ResourceId) -> Result<ResourceId, String> {
        let id = id.as_str().ok_or("`$id` is not a text.")?;
        let uri = self.absolute(within, id)?;
        if uri.fragment().is_some_and(|fragment| !fragment.as_str().is_empty()) {
            return Err("`$id` cannot have a fragment.".to_owned());
        }
        let uri = uri.strip_fragment().to_owned();
        if address(schema) == address(self.resources[0].root) {
            self.resources[0].uri = uri;
            return Ok(0);
        }
        if self.resources.iter().any(|known| known.uri == uri) {
            return Err(format!("two schemas have the `$id` {uri}."));
        }
        self.resources.push(Resource {
            uri,
            root: schema,
            anchors: HashMap::new(),
            dynamic_anchors: BTreeMap::new(),
        });
        Ok(self.resources.len() - 1)
    }

    fn absolute(&self, base: ResourceId, reference: &str) -> Result<Uri<String>, String> {
        let relative =
            UriRef::parse(reference).map_err(|_| format!("`{reference}` is not a URI reference."))?;
        let base = self.resources[base].uri.borrow();
        let absolute = relative.resolve_against(&base);
        Ok(absolute.map_err(|_| format!("`{reference}` cannot be resolved."))?.normalize())
    }

    /// Returns the resource that contains `schema`, or `within` if `schema` is not at a place where a schema
    /// is expected.
    pub fn resource_of(&self, schema: &Value, within: ResourceId) -> ResourceId {
        self.places.get(&address(schema)).copied().unwrap_or(within)
    }

    /// Returns the indexes of all resources.
    pub fn resources(&self) -> std::ops::Range<ResourceId> {
        0..self.resources.len()
    }

    /// Returns the dynamic anchors of a resource.
    pub fn dynamic_anchors(&self, resource: ResourceId) -> impl Iterator<Item = (&'v str, &'v Value)> + '_ {
        self.resources[resource].dynamic_anchors.iter().map(|(name, schema)| (*name, *schema))
    }

    /// Resolves `reference`, which occurs in the resource `from`.
    ///
    /// # Errors
    /// Returns a sentence if the target does not exist in this document.
    pub fn resolve(&self, from: ResourceId, reference: &str) -> Result<Target<'v>, String> {
        let nowhere = || format!("`{reference}` leads to nothing in this schema.");
        let uri = self.absolute(from, reference)?;
        let without_fragment = uri.strip_fragment();
        let resource =
            self.resources.iter().position(|known| known.uri.as_str() == without_fragment.as_str());
        let resource = resource.ok_or_else(nowhere)?;
        let fragment =
            uri.fragment().map(|fragment| fragment.decode().to_string().map(std::borrow::Cow::into_owned));
        let fragment = fragment.transpose().map_err(|_| nowhere())?.unwrap_or_default();
        let found = &self.resources[resource];
        if fragment.is_empty() {
            return Ok(Target { schema: found.root, resource, dynamic_anchor: None });
        }
        if let Some(pointer) = fragment.strip_prefix('/') {
            return self.follow(found.root, resource, pointer).ok_or_else(nowhere);
        }
        let (_, schema) = found.anchors.get_key_value(&*fragment).ok_or_else(nowhere)?;
        let dynamic_anchor = found.dynamic_anchors.get_key_value(&*fragment).map(|(name, _)| *name);
        Ok(Target { schema, resource, dynamic_anchor })
    }

    /// Returns the target of `pointer`, a JSON Pointer without its leading slash, relative to `root`.
    fn follow(&self, root: &'v Value, mut resource: ResourceId, pointer: &str) -> Option<Target<'v>> {
        let mut schema = root;
        for token in pointer.split('/') {
            schema = match schema {
                Value::Object(fields) => fields.get(&*token.replace("~1", "/").replace("~0", "~"))?,
                Value::Array(items) => items.get(token.parse::<usize>().ok()?)?,
                _ => return None,
            };
            resource = self.resource_of(schema, resource);
        }
        Some(Target { schema, resource, dynamic_anchor: None })
    }
}

fn is_anchor(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}
