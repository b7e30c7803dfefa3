//! A compiled schema: nodes of keywords that name each other by index.

use std::collections::{BTreeMap, HashSet};

use serde_json::Number;

use super::document::ResourceId;
use super::pattern::Pattern;
use super::values::Decimal;

/// Schemas that apply to the same value within each other, references followed.
const MAX_NESTING: usize = 128;

/// Index of a schema in [`Schema::nodes`].
pub type NodeId = usize;

/// A schema that is ready to be evaluated.
#[derive(Debug)]
pub struct Schema {
    pub nodes: Vec<Node>,
    /// For each resource its dynamic anchors: the number of the name, and the schema. Empty where no dynamic reference is.
    pub dynamic_anchors: Vec<Vec<(usize, NodeId)>>,
    /// Whether any schema depends on what others have evaluated.
    pub has_unevaluated: bool,
    /// Whether names of fields are looked at as values.
    pub has_property_names: bool,
    /// Approximate memory that it takes, in bytes.
    pub bytes: usize,
}

/// One schema of a document.
#[derive(Debug)]
pub enum Node {
    /// `true` or `false`.
    Always(bool),
    Keywords {
        resource: ResourceId,
        /// Whether it is reached by references, and may thus apply to one value more than once.
        is_shared: bool,
        keywords: Vec<Keyword>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Maximum,
    ExclusiveMaximum,
    Minimum,
    ExclusiveMinimum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    MaxLength,
    MinLength,
    MaxItems,
    MinItems,
    MaxProperties,
    MinProperties,
}

/// One or more keywords that are evaluated together.
#[derive(Debug)]
pub enum Keyword {
    Ref(NodeId),
    DynamicRef {
        anchor: usize,
        fallback: NodeId,
    },
    Type(Vec<&'static str>),
    /// `enum` or `const`: keys of the allowed values, and how they are listed to people.
    Values {
        keys: HashSet<String>,
        listing: String,
    },
    Bound(Bound, Number),
    MultipleOf(Decimal, Number),
    Count(Count, u64),
    Pattern(Pattern, String),
    UniqueItems,
    Required(Vec<String>),
    DependentRequired(Vec<(String, Vec<String>)>),
    PropertyNames(NodeId),
    Properties {
        named: BTreeMap<String, NodeId>,
        patterns: Vec<(Pattern, NodeId)>,
        additional: Option<NodeId>,
    },
    DependentSchemas(Vec<(String, NodeId)>),
    Items {
        prefix: Vec<NodeId>,
        rest: Option<NodeId>,
    },
    Contains {
        schema: NodeId,
        min: u64,
        max: Option<u64>,
    },
    AllOf(Vec<NodeId>),
    AnyOf(Vec<NodeId>),
    OneOf(Vec<NodeId>),
    Not(NodeId),
    If {
        condition: NodeId,
        then: Option<NodeId>,
        otherwise: Option<NodeId>,
    },
    UnevaluatedItems(NodeId),
    UnevaluatedProperties(NodeId),
}

impl Keyword {
    /// Schemas that it applies to the value itself, and not to what is in it.
    fn in_place(&self) -> Vec<NodeId> {
        match self {
            Self::Ref(node) | Self::DynamicRef { fallback: node, .. } | Self::Not(node) => vec![*node],
            Self::AllOf(nodes) | Self::AnyOf(nodes) | Self::OneOf(nodes) => nodes.clone(),
            Self::If { condition, then, otherwise } => {
                [Some(*condition), *then, *otherwise].into_iter().flatten().collect()
            }
            Self::DependentSchemas(schemas) => schemas.iter().map(|(_, node)| *node).collect(),
            _ => Vec::new(),
        }
    }
}

/// Rejects schemas that apply to one value too deep within each other. Circles end when they are evaluated.
///
/// # Errors
/// That it is too deep, in a sentence.
pub fn check_nesting(nodes: &[Node]) -> Result<(), String> {
    let children = |id: NodeId| match &nodes[id] {
        Node::Always(_) => Vec::new(),
        Node::Keywords { keywords, .. } => keywords.iter().flat_map(Keyword::in_place).collect(),
    };
    // Depth of each schema that is done; 0 while it is under way.
    let mut depths: Vec<Option<usize>> = vec![None; nodes.len()];
    for start in 0..nodes.len() {
        if depths[start].is_some() {
            continue;
        }
        depths[start] = Some(0);
        let mut path = vec![(start, children(start), 0, 0)];
        while let Some((id, nested, next, deepest)) = path.last_mut() {
            if let Some(child) = nested.get(*next).copied() {
                *next += 1;
                match depths[child] {
                    Some(depth) => *deepest = (*deepest).max(depth),
                    None => {
                        depths[child] = Some(0);
                        path.push((child, children(child), 0, 0));
                    }
                }
                continue;
            }
            let depth = *deepest + 1;
            if depth > MAX_NESTING {
                return Err(format!(
                    "at most {MAX_NESTING} schemas can apply to one value within each other."
                ));
            }
            depths[*id] = Some(depth);
            path.pop();
            if let Some((_, _, _, deepest)) = path.last_mut() {
                *deepest = (*deepest).max(depth);
            }
        }
    }
    Ok(())
}

/// Whether a schema of the document applies to a value because it applies to that value.
#[cfg(test)]
pub fn refers_in_circles(schema: &Schema) -> bool {
    let children = |id: NodeId| match &schema.nodes[id] {
        Node::Always(_) => Vec::new(),
        Node::Keywords { keywords, .. } => keywords.iter().flat_map(Keyword::in_place).collect(),
    };
    (0..schema.nodes.len()).any(|start| {
        let (mut waiting, mut seen) = (children(start), HashSet::new());
        while let Some(id) = waiting.pop() {
            if seen.insert(id) {
                waiting.extend(children(id));
            }
        }
        seen.contains(&start)
    })
}
