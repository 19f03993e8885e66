package objects

import (
	"os"
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestFromManifests: every field of a manifest is known and valid, or the error
// names the file, the document, the object and the field.
func TestFromManifests(t *testing.T) {
	const pool = "apiVersion: fairlead.io/v1alpha1\nkind: IPAddressPool\nmetadata: {name: lan}\n"
	const peer = "apiVersion: fairlead.io/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\n"
	const good = pool + "spec: {addresses: [192.0.2.1]}\n"
	for _, row := range []struct{ name, file, want string }{
		{"good", good, ""},
		{"comments", "# a\n---\n" + good + "---\n# b\n---\n", ""},
		{"JSON with tabs", "{\t\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\"}}", ""},
		{
			"JSON, twice",
			`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}} ` +
				`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}`,
			"",
		},
		{
			"YAML with braces",
			"{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n" +
				"{apiVersion: v1, kind: Namespace, metadata: {name: b}}",
			"",
		},
		{"list", "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}]}", ""},
		{"list of one kind", "{apiVersion: v1, kind: NamespaceList, items: [{metadata: {name: a}}]}", ""},
		{"Windows", strings.ReplaceAll(good, "\n", "\r\n"), ""},
		{"as kubectl get writes it", good + "status: {services: 3, conditions: [{type: Ready, status: 'True', reason: Ready, message: '', " +
			"lastTransitionTime: '2026-01-01T00:00:00Z'}]}", ""},

		{
			"field", good + "---\n" + pool + "spec: {adresses: [192.0.2.1]}",
			`f.yaml: document 2: IPAddressPool "lan": spec.adresses: unknown field`,
		},
		{
			"deep field", pool + "spec: {addresses: [192.0.2.1], serviceAllocation: {serviceSelectors: [{matchLabel: {a: b}}]}}",
			`f.yaml: document 1: IPAddressPool "lan": spec.serviceAllocation.serviceSelectors[0].matchLabel: unknown field`,
		},
		{"in a list", "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}, " +
			"{apiVersion: v1, kind: Namespace, metadata: {name: b}, spek: {}}]}", `f.yaml: document 1: item 1: Namespace "b": spek: unknown field`},
		{
			"kind", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}}",
			`f.yaml: document 1: Deployment "shop/web": unsupported kind Deployment of apps/v1; ` +
				`a manifest may contain Fairlead's kinds (fairlead.io/v1alpha1), and Services, Namespaces and Nodes (v1)`,
		},
		{
			"MetalLB's", "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: a}}",
			`unsupported kind IPAddressPool of metallb.io/v1beta1`,
		},
		{"known, but not planned", "{apiVersion: v1, kind: Secret, metadata: {name: a}}", `unsupported kind Secret of v1`},
		{
			"Speaker", "{apiVersion: fairlead.io/v1alpha1, kind: Speaker, metadata: {name: a}}",
			`unsupported kind Speaker of fairlead.io/v1alpha1`,
		},
		{
			"type", pool + "spec: {addresses: [192.0.2.1], autoAssign: 'yes'}",
			`IPAddressPool "lan": spec.autoAssign: must be true or false, not a string`,
		},
		{"type of an entry", pool + "spec: {addresses: [7]}", `IPAddressPool "lan": spec.addresses: must be a string, not a number`},
		{"list wanted", pool + "spec: {addresses: 192.0.2.1}", `IPAddressPool "lan": spec.addresses: must be a list, not a string`},
		{
			"too large", pool + "spec: {addresses: [192.0.2.1], serviceAllocation: {priority: 3000000000}}",
			`spec.serviceAllocation.priority: must be a 32-bit integer, not the number 3000000000`,
		},
		{
			"too small", pool + "spec: {addresses: [192.0.2.1], serviceAllocation: {priority: -1}}",
			`IPAddressPool "lan": spec.serviceAllocation.priority: should be greater than or equal to 0`,
		},
		{"required", pool, `IPAddressPool "lan": spec: is required`},
		{"none", pool + "spec: {addresses: []}", `spec.addresses: should have at least 1 items`},
		{
			"rule", pool + "spec: {addresses: [192.0.2.0/24, 192.0.2.0/33]}",
			`IPAddressPool "lan": spec.addresses[1]: must be a valid CIDR, range or IP address`,
		},
		{
			"enum", peer + "spec: {myASN: 1, dynamicASN: some, peerAddress: 192.0.2.1}",
			`BGPPeer "tor": spec.dynamicASN: should be one of [internal external]`,
		},
		{
			"rule of an object", peer + "spec: {myASN: 1}",
			`BGPPeer "tor": spec: exactly one of peerASN and dynamicASN must be set; ` +
				`spec: exactly one of peerAddress, interface and defaultGateway must be set`,
		},
		{
			"durations", peer + "spec: {myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, holdTime: 1s}",
			`BGPPeer "tor": spec.holdTime: must be 0s or from 3s to 65535s (RFC 4271 section 4.2)`,
		},
		{"twice", good + "---\n" + good, `f.yaml: document 2: IPAddressPool "lan": duplicate object`},
		{
			"key twice", pool + "spec: {addresses: [192.0.2.1], addresses: [192.0.2.2]}",
			`f.yaml: document 1: yaml: unmarshal errors: line 4: key "addresses" already set in map`,
		},
		{
			"key twice in JSON", `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "name": "b"}}`,
			`Namespace "b": metadata.name: duplicate field`,
		},
		{
			"no name", "{apiVersion: v1, kind: Namespace, metadata: {generateName: a}}",
			`f.yaml: document 1: Namespace: metadata.name: must be set`,
		},
		{
			"no version", "{kind: Namespace, metadata: {name: a}}",
			`f.yaml: document 1: not a Kubernetes object: apiVersion and kind must be set`,
		},
		{
			"name", "{apiVersion: v1, kind: Namespace, metadata: {name: [a]}}",
			`f.yaml: document 1: not a Kubernetes object: metadata.name: must be a string, not a list`,
		},
		{"text", "hello", `f.yaml: document 1: not a Kubernetes object: the document: must be an object, not a string`},
		{"YAML", good + "---\n{a", `f.yaml: document 2: yaml: line 1: did not find expected ',' or '}'`},
		{"JSON", `{"apiVersion": "v1", "kind"`, `f.yaml: document 1: yaml: line 1: did not find expected ',' or '}'`},
		{"empty", "\n# nothing\n", `f.yaml: contains no objects`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile("f.yaml", []byte(row.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := FromManifests([]string{"f.yaml"}, nil, "default")
			switch {
			case err == nil && row.want != "":
				t.Errorf("no error; want %s", row.want)
			case err != nil && (row.want == "" || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got  %v\nwant %s", err, row.want)
			}
		})
	}
}

// TestSchemas: every kind has a schema, and every rule of a schema compiles.
func TestSchemas(t *testing.T) {
	all, err := crdSchemas()
	if err != nil {
		t.Fatal(err)
	}
	for kind := range Scheme.KnownTypes(v1alpha1.GroupVersion) {
		o, err := Scheme.New(v1alpha1.GroupVersion.WithKind(kind))
		if held, _ := new(Collection).put(o); err == nil && held && all[kind] == nil {
			t.Errorf("%s has no schema", kind)
		}
	}
	env, err := celEnv()
	if err != nil {
		t.Fatal(err)
	}
	compiled := 0
	for kind, s := range all {
		eachRule(s, func(expression string) {
			compiled++
			if _, issues := env.Compile(expression); issues.Err() != nil {
				t.Errorf("%s: %q: %v", kind, expression, issues.Err())
			}
		})
	}
	if compiled < 10 {
		t.Errorf("only %d rules were found", compiled)
	}
}

// eachRule finds the rules of a schema, however deep.
func eachRule(s *spec.Schema, found func(expression string)) {
	declared, _ := s.Extensions["x-kubernetes-validations"].([]any)
	for _, d := range declared {
		found(d.(map[string]any)["rule"].(string))
	}
	for _, property := range s.Properties {
		eachRule(&property, found)
	}
	if s.Items != nil && s.Items.Schema != nil {
		eachRule(s.Items.Schema, found)
	}
}
