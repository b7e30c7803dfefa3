//! Compiled schema: nodes of keywords that refer to each other by index.

use std::collections::{BTreeMap, HashSet};

use serde_json::Number;

use super::document::ResourceId;
use super::pattern::Pattern;
use super::values::Decimal;

/// Maximum number of nested schemas that apply to the same value, following references.
const MAX_NESTING: usize = 128;

/// Index of a schema in [`Schema::nodes`].
pub type NodeId = usize;

/// Compiled schema, ready for evaluation.
#[derive(Debug)]
pub struct Schema {
    pub nodes: Vec<Node>,
    /// Dynamic anchors of each resource: the index of the name, and the schema. Empty if the document has no
    /// dynamic references.
    pub dynamic_anchors: Vec<Vec<(usize, NodeId)>>,
    /// True if a schema depends on what others have evaluated.
    pub has_unevaluated: bool,
    /// True if `propertyNames` occurs, so that field names are evaluated as values.
    pub has_property_names: bool,
    /// Approximate memory in bytes.
    pub bytes: usize,
}

/// Schema within a document.
#[derive(Debug)]
pub enum Node {
    /// Schema `true` or `false`.
    Always(bool),
    Keywords {
        resource: ResourceId,
        /// True if it is the target of references, and so can apply to one value more than once.
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
    /// `enum` or `const`: comparison keys of the allowed values, and their text for messages.
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
    /// Returns the schemas that the keyword applies to the value itself, not to its parts.
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

/// Rejects schemas that nest too deeply for one value. Cycles end during the evaluation.
///
/// # Errors
/// Returns an error message if the schemas nest too deeply.
pub fn check_nesting(nodes: &[Node]) -> Result<(), String> {
    let children = |id: NodeId| match &nodes[id] {
        Node::Always(_) => Vec::new(),
        Node::Keywords { keywords, .. } => keywords.iter().flat_map(Keyword::in_place).collect(),
    };
    // Depth of each finished schema; 0 while it is being computed.
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

/// Returns true if a schema applies to the same value again through references.
#[cfg(test)]
pub fn has_reference_cycle(schema: &Schema) -> bool {
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
