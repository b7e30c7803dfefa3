//! Compiles the JSON text of a schema into nodes of keywords. Rejects invalid schemas and schemas that are
//! too large.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::document::{Document, ResourceId, SCHEMA_LISTS, SCHEMA_MAPS, address};
use super::pattern::Pattern;
use super::schema::{Bound, Count, Keyword, Node, NodeId, Schema, check_nesting};
use super::values::{self, Decimal};
use super::{TooCostly, Work};

/// Maximum memory for all patterns of a schema, in bytes.
const MAX_PATTERN_MEMORY: usize = 2 << 20;
/// Maximum number of steps for building the comparison keys of all `enum` and `const` values.
const MAX_ENUM_WORK: u64 = 1 << 20;

/// Compiles the schema `root`. The node of the whole schema has the index 0. `text_bytes` is the length of
/// its JSON text, for the estimate of the memory.
///
/// # Errors
/// Returns a sentence that describes the error and where it is.
pub fn compile(root: &Value, text_bytes: usize) -> Result<Schema, String> {
    let document = Document::scan(root)?;
    let mut compiler = Compiler {
        document,
        ids: HashMap::new(),
        waiting: Vec::new(),
        nodes: Vec::new(),
        anchors: HashMap::new(),
        shared: HashSet::new(),
        pattern_bytes: 0,
        value_bytes: 0,
        enum_work: Work::new(MAX_ENUM_WORK),
        has_unevaluated: false,
        has_property_names: false,
    };
    compiler.node(root, 0, "#");
    compiler.run()?;
    let dynamic_anchors = compiler.dynamic_anchors();
    // Some schemas are found only now, because nothing but a dynamic reference leads to them.
    compiler.run()?;
    check_nesting(&compiler.nodes)?;
    // The stored names and numbers need two to three times the size of the text. Each node adds a vector of
    // keywords.
    let bytes = 3 * text_bytes + 256 * compiler.nodes.len() + compiler.pattern_bytes + compiler.value_bytes;
    Ok(Schema {
        nodes: compiler.nodes,
        dynamic_anchors,
        has_unevaluated: compiler.has_unevaluated,
        has_property_names: compiler.has_property_names,
        bytes,
    })
}

/// Schema that was found in the document but is not compiled yet.
struct PendingSchema<'v> {
    id: NodeId,
    schema: &'v Value,
    resource: ResourceId,
    /// JSON Pointer or reference to the schema, for messages.
    pointer: String,
}

struct Compiler<'v> {
    document: Document<'v>,
    ids: HashMap<usize, NodeId>,
    waiting: Vec<PendingSchema<'v>>,
    nodes: Vec<Node>,
    /// Index of each anchor name that is used in a `$dynamicRef`.
    anchors: HashMap<&'v str, usize>,
    shared: HashSet<NodeId>,
    pattern_bytes: usize,
    value_bytes: usize,
    enum_work: Work,
    has_unevaluated: bool,
    has_property_names: bool,
}

impl<'v> Compiler<'v> {
    fn node(&mut self, schema: &'v Value, within: ResourceId, pointer: &str) -> NodeId {
        if let Some(known) = self.ids.get(&address(schema)) {
            return *known;
        }
        let id = self.nodes.len();
        self.nodes.push(Node::Always(true));
        self.ids.insert(address(schema), id);
        let resource = self.document.resource_of(schema, within);
        self.waiting.push(PendingSchema { id, schema, resource, pointer: shorten(pointer.to_owned()) });
        id
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(PendingSchema { id, schema, resource, pointer }) = self.waiting.pop() {
            let node = match schema {
                Value::Bool(always) => Node::Always(*always),
                Value::Object(keywords) => {
                    let mut site = Site { compiler: self, all: keywords, resource, pointer: &pointer };
                    let keywords = site.keywords().map_err(|fault| format!("{pointer}: {fault}"))?;
                    Node::Keywords { resource, is_shared: false, keywords }
                }
                _ => return Err(format!("{pointer}: a schema is an object, true or false.")),
            };
            self.nodes[id] = node;
        }
        for id in &self.shared {
            if let Node::Keywords { is_shared, .. } = &mut self.nodes[*id] {
                *is_shared = true;
            }
        }
        Ok(())
    }

    fn dynamic_anchors(&mut self) -> Vec<Vec<(usize, NodeId)>> {
        if self.anchors.is_empty() {
            return Vec::new();
        }
        let resources = self.document.resources();
        let anchors = resources.map(|resource| {
            let named: Vec<_> = self.document.dynamic_anchors(resource).collect();
            let known = named.into_iter().filter_map(|(name, schema)| {
                let anchor = *self.anchors.get(name)?;
                let node = self.node(schema, resource, "#");
                self.shared.insert(node);
                Some((anchor, node))
            });
            known.collect()
        });
        anchors.collect()
    }
}

/// Schema object that is being compiled.
struct Site<'c, 'v> {
    compiler: &'c mut Compiler<'v>,
    all: &'v Map<String, Value>,
    resource: ResourceId,
    pointer: &'c str,
}

/// Returns the message for a keyword whose value is not of the `expected` form.
fn invalid_keyword(keyword: &str, expected: &str) -> String {
    format!("`{keyword}` has to be {expected}.")
}

impl<'v> Site<'_, 'v> {
    fn keywords(&mut self) -> Result<Vec<Keyword>, String> {
        let mut keywords = Vec::new();
        for (name, value) in self.all {
            keywords.extend(self.keyword(name, value)?);
        }
        keywords.extend(self.properties()?);
        keywords.extend(self.items()?);
        keywords.extend(self.contains()?);
        keywords.extend(self.conditional()?);
        // These two keywords come last, because they depend on what the other keywords have evaluated.
        if let Some(node) = self.schema("unevaluatedItems") {
            self.compiler.has_unevaluated = true;
            keywords.push(Keyword::UnevaluatedItems(node));
        }
        if let Some(node) = self.schema("unevaluatedProperties") {
            self.compiler.has_unevaluated = true;
            keywords.push(Keyword::UnevaluatedProperties(node));
        }
        Ok(keywords)
    }

    /// Compiles one keyword that can be evaluated without its sibling keywords. Returns `None` for
    /// annotations.
    fn keyword(&mut self, name: &'v str, value: &'v Value) -> Result<Option<Keyword>, String> {
        let bound = |bound| value.as_number().cloned().map(|limit| Keyword::Bound(bound, limit));
        let counted = |what| count(value).map(|limit| Keyword::Count(what, limit));
        let number = |made: Option<Keyword>| made.map(Some).ok_or_else(|| invalid_keyword(name, "a number"));
        let natural =
            |made: Option<Keyword>| made.map(Some).ok_or_else(|| invalid_keyword(name, "an integer from 0"));
        match name {
            "$ref" => self.reference(name, value).map(Some),
            "$dynamicRef" => self.reference(name, value).map(Some),
            "type" => types(value).map(Some),
            "enum" => {
                let values = value.as_array().ok_or_else(|| invalid_keyword(name, "an array"))?;
                self.values(values).map(Some)
            }
            "const" => self.values(std::slice::from_ref(value)).map(Some),
            "maximum" => number(bound(Bound::Maximum)),
            "exclusiveMaximum" => number(bound(Bound::ExclusiveMaximum)),
            "minimum" => number(bound(Bound::Minimum)),
            "exclusiveMinimum" => number(bound(Bound::ExclusiveMinimum)),
            "multipleOf" => {
                let number = value.as_number().filter(|number| number.as_f64().is_some_and(|n| n > 0.0));
                let number = number.ok_or_else(|| invalid_keyword(name, "a number above 0"))?;
                let decimal = Decimal::of(number).ok_or_else(|| invalid_keyword(name, "a number above 0"))?;
                Ok(Some(Keyword::MultipleOf(decimal, number.clone())))
            }
            "maxLength" => natural(counted(Count::MaxLength)),
            "minLength" => natural(counted(Count::MinLength)),
            "maxItems" => natural(counted(Count::MaxItems)),
            "minItems" => natural(counted(Count::MinItems)),
            "maxProperties" => natural(counted(Count::MaxProperties)),
            "minProperties" => natural(counted(Count::MinProperties)),
            "pattern" => {
                let text = value.as_str().ok_or_else(|| invalid_keyword(name, "a text"))?;
                Ok(Some(Keyword::Pattern(self.pattern(text)?, text.to_owned())))
            }
            "uniqueItems" => {
                let unique = value.as_bool().ok_or_else(|| invalid_keyword(name, "true or false"))?;
                Ok(unique.then_some(Keyword::UniqueItems))
            }
            "required" => Ok(Some(Keyword::Required(names(name, value)?))),
            "dependentRequired" => {
                let fields = value.as_object().ok_or_else(|| invalid_keyword(name, "an object"))?;
                let fields = fields.iter().map(|(field, value)| Ok((field.clone(), names(name, value)?)));
                Ok(Some(Keyword::DependentRequired(fields.collect::<Result<_, String>>()?)))
            }
            "propertyNames" => {
                self.compiler.has_property_names = true;
                Ok(self.schema(name).map(Keyword::PropertyNames))
            }
            "allOf" => self.list(name).map(|nodes| Some(Keyword::AllOf(nodes))),
            "anyOf" => self.list(name).map(|nodes| Some(Keyword::AnyOf(nodes))),
            "oneOf" => self.list(name).map(|nodes| Some(Keyword::OneOf(nodes))),
            "not" => Ok(self.schema(name).map(Keyword::Not)),
            "dependentSchemas" => {
                let schemas = self.map(name)?.into_iter().map(|(field, node)| (field.to_owned(), node));
                Ok(Some(Keyword::DependentSchemas(schemas.collect())))
            }
            "$defs" | "definitions" => self.map(name).map(|_| None),
            // All other keywords are annotations, which do not affect validation.
            _ => Ok(None),
        }
    }

    fn reference(&mut self, name: &str, value: &'v Value) -> Result<Keyword, String> {
        let reference = value.as_str().ok_or_else(|| invalid_keyword(name, "a URI reference"))?;
        let target = self.compiler.document.resolve(self.resource, reference)?;
        let node = self.compiler.node(target.schema, target.resource, reference);
        self.compiler.shared.insert(node);
        Ok(match target.dynamic_anchor.filter(|_| name == "$dynamicRef") {
            Some(anchor) => {
                let next = self.compiler.anchors.len();
                let anchor = *self.compiler.anchors.entry(anchor).or_insert(next);
                Keyword::DynamicRef { anchor, fallback: node }
            }
            None => Keyword::Ref(node),
        })
    }

    fn values(&mut self, values: &[Value]) -> Result<Keyword, String> {
        let work = &mut self.compiler.enum_work;
        let keys = values.iter().map(|value| values::key(value, work)).collect::<Result<HashSet<_>, _>>();
        let keys = keys.map_err(|TooCostly| "the values of `enum` are too large in total.".to_owned())?;
        self.compiler.value_bytes += keys.iter().map(|key| key.len() + 64).sum::<usize>();
        let listing = values.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Ok(Keyword::Values { keys, listing: shorten(listing) })
    }

    fn pattern(&mut self, text: &str) -> Result<Pattern, String> {
        let left = MAX_PATTERN_MEMORY.saturating_sub(self.compiler.pattern_bytes);
        let pattern = Pattern::compile(text, left)?;
        self.compiler.pattern_bytes += pattern.bytes();
        Ok(pattern)
    }

    /// Compiles the schema that is the value of a keyword, if present.
    fn schema(&mut self, keyword: &str) -> Option<NodeId> {
        let value = self.all.get(keyword)?;
        let pointer = format!("{}/{keyword}", self.pointer);
        Some(self.compiler.node(value, self.resource, &pointer))
    }

    fn list(&mut self, keyword: &str) -> Result<Vec<NodeId>, String> {
        debug_assert!(SCHEMA_LISTS.contains(&keyword));
        let schemas = self.all.get(keyword).and_then(Value::as_array).filter(|schemas| !schemas.is_empty());
        let schemas = schemas.ok_or_else(|| invalid_keyword(keyword, "a non-empty array of schemas"))?;
        let node = |(n, schema)| {
            let pointer = format!("{}/{keyword}/{n}", self.pointer);
            self.compiler.node(schema, self.resource, &pointer)
        };
        Ok(schemas.iter().enumerate().map(node).collect())
    }

    /// Compiles the schemas in the object that is the value of a keyword. Returns an empty list if the
    /// keyword is absent.
    fn map(&mut self, keyword: &str) -> Result<Vec<(&'v str, NodeId)>, String> {
        debug_assert!(SCHEMA_MAPS.contains(&keyword));
        let Some(schemas) = self.all.get(keyword) else { return Ok(Vec::new()) };
        let schemas = schemas.as_object().ok_or_else(|| invalid_keyword(keyword, "an object of schemas"))?;
        let node = |(name, schema): (&'v String, &'v Value)| {
            let pointer = format!("{}/{keyword}/{name}", self.pointer);
            (name.as_str(), self.compiler.node(schema, self.resource, &pointer))
        };
        Ok(schemas.iter().map(node).collect())
    }

    fn properties(&mut self) -> Result<Option<Keyword>, String> {
        let named: BTreeMap<_, _> =
            self.map("properties")?.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
        let mut patterns = Vec::new();
        for (pattern, node) in self.map("patternProperties")? {
            patterns.push((self.pattern(pattern)?, node));
        }
        let additional = self.schema("additionalProperties");
        let says_nothing = named.is_empty() && patterns.is_empty() && additional.is_none();
        Ok((!says_nothing).then_some(Keyword::Properties { named, patterns, additional }))
    }

    fn items(&mut self) -> Result<Option<Keyword>, String> {
        let prefix =
            if self.all.contains_key("prefixItems") { self.list("prefixItems")? } else { Vec::new() };
        let rest = self.schema("items");
        Ok((!prefix.is_empty() || rest.is_some()).then_some(Keyword::Items { prefix, rest }))
    }

    fn contains(&mut self) -> Result<Option<Keyword>, String> {
        let limit = |keyword: &str| {
            let value = self.all.get(keyword);
            let limit =
                value.map(|value| count(value).ok_or_else(|| invalid_keyword(keyword, "an integer from 0")));
            limit.transpose()
        };
        let (min, max) = (limit("minContains")?.unwrap_or(1), limit("maxContains")?);
        Ok(self.schema("contains").map(|schema| Keyword::Contains { schema, min, max }))
    }

    fn conditional(&mut self) -> Result<Option<Keyword>, String> {
        let [condition, then, otherwise] = ["if", "then", "else"].map(|keyword| self.schema(keyword));
        Ok(condition.map(|condition| Keyword::If { condition, then, otherwise }))
    }
}

/// Names of the types of JSON Schema.
pub(super) const TYPES: &[&str] = &["array", "boolean", "integer", "null", "number", "object", "string"];

fn types(value: &Value) -> Result<Keyword, String> {
    let expected = || invalid_keyword("type", "the name of a type, or an array of different ones");
    let named = match value {
        Value::Array(names) => names.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut types = Vec::new();
    for name in named {
        let known = name.as_str().and_then(|name| TYPES.iter().find(|known| **known == name));
        let known = known.filter(|known| !types.contains(*known)).ok_or_else(expected)?;
        types.push(*known);
    }
    if types.is_empty() { Err(expected()) } else { Ok(Keyword::Type(types)) }
}

fn names(keyword: &str, value: &Value) -> Result<Vec<String>, String> {
    let names = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)));
    let names: Option<Vec<_>> = names.and_then(Iterator::collect);
    let names = names.ok_or_else(|| invalid_keyword(keyword, "an array of names"))?;
    let different: HashSet<_> = names.iter().collect();
    if different.len() < names.len() {
        Err(invalid_keyword(keyword, "an array of different names"))
    } else {
        Ok(names)
    }
}

/// Converts a non-negative integer. A number such as `2.0` counts as an integer. Returns `None` for all other
/// values.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn count(value: &Value) -> Option<u64> {
    let float = |float: &f64| float.fract() == 0.0 && (0.0..1e15).contains(float);
    value.as_u64().or_else(|| value.as_f64().filter(float).map(|float| float as u64))
}

fn shorten(mut text: String) -> String {
    const MAX_LISTING_BYTES: usize = 300;
    if text.len() > MAX_LISTING_BYTES {
        text.truncate(text.floor_char_boundary(MAX_LISTING_BYTES));
        text.push('…');
    }
    text
}
