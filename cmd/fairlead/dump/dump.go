// Package dump writes all objects that Fairlead's decisions depend on, so that
// the other commands can read them without access to the cluster.
//
// It writes an objects.Collection as one YAML List, which objects.FromDumps reads.
// Managed fields and the list of images of a Node are omitted: they are large, and
// no decision depends on them, except on the managed fields of a Service's addresses.
// A Collection contains no Secrets. The exit status
// of the command is 0, or 1 if objects cannot be read or the dump cannot be
// written.
package dump

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Write writes the dump in one write. It does not modify the objects.
func Write(w io.Writer, c *objects.Collection) error {
	var b bytes.Buffer
	b.WriteString("apiVersion: v1\nkind: List\nitems:\n")
	for _, o := range c.All() {
		item, err := listItem(o)
		if err != nil {
			return err
		}
		// Each object is a list of one item, whose text is a part of the List's
		// items.
		text, err := yaml.Marshal([]any{item})
		if err != nil {
			return fmt.Errorf("encode an object: %w", err)
		}
		b.Write(text)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("print the dump: %w", err)
	}
	return nil
}

// listItem encodes the object with its kind, without the fields that no decision
// depends on.
func listItem(o runtime.Object) (json.RawMessage, error) {
	o = o.DeepCopyObject()
	switch o := o.(type) {
	case *corev1.Service:
		v1alpha1.StripManagedFields(o)
	case *corev1.Node:
		o.ManagedFields, o.Status.Images = nil, nil
	default:
		o.(metav1.Object).SetManagedFields(nil)
	}
	// Objects in typed lists do not have their kind set, and a dump must have it.
	kinds, _, err := objects.Scheme.ObjectKinds(o)
	if err != nil {
		return nil, fmt.Errorf("find the kind of an object: %w", err)
	}
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	content, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode an object: %w", err)
	}
	return content, nil
}
