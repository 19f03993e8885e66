package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
)

func dumpCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Write all that the other commands look at, for their --from.",
		Long: `Write all that the other commands look at, as one YAML List: Fairlead's own kinds,
Speakers, Nodes, Namespaces, ServiceCIDRs, Services and EndpointSlices. It holds
no Secrets. What others have written into annotations is part of it.`,
		Example: `  fairlead dump > dump.yaml
  fairlead doctor --from dump.yaml`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		i, err := from.read(cmd)
		if err != nil {
			return err
		}
		text, err := dump(i)
		if err != nil {
			return err
		}
		if _, err := cmd.OutOrStdout().Write(text); err != nil {
			return fmt.Errorf("print the dump: %w", err)
		}
		return nil
	}
	return cmd
}

// dump writes every object, each in its own kind.
func dump(i *objects.Collection) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("apiVersion: v1\nkind: List\nitems:\n")
	for _, o := range i.All() {
		item, err := lean(o)
		if err != nil {
			return nil, err
		}
		text, err := yaml.Marshal([]any{item})
		if err != nil {
			return nil, fmt.Errorf("encode an object: %w", err)
		}
		b.Write(text)
	}
	return b.Bytes(), nil
}

// lean is the object with its kind, and without what is long and decides nothing.
func lean(o runtime.Object) (json.RawMessage, error) {
	o = o.DeepCopyObject()
	if node, ok := o.(*corev1.Node); ok {
		node.Status.Images = nil
	}
	o.(metav1.Object).SetManagedFields(nil)
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
