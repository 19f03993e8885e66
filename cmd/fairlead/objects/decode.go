// This file decodes files. Dumps are decoded leniently, because they may be of
// other versions; manifests strictly, because a misspelled field would change the
// preview.

package objects

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// decoder adds the objects of files to a Collection. Its errors name the file,
// the document and the object.
type decoder struct {
	// strict is set for manifests, which may contain supported kinds only and must be
	// valid.
	strict bool
	// namespace is the namespace of Services without one.
	namespace string
	into      *Collection
	// skipped counts the objects of kinds that no decision depends on; nil if strict
	// is set.
	skipped map[string]int
}

// readFile reads one file, or standard input for "-".
func (d *decoder) readFile(path string, stdin io.Reader) error {
	if path == "-" {
		return d.readAll("standard input", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return err // names the file
	}
	defer f.Close()
	return d.readAll(path, f)
}

// readAll reads all documents. Errors contain the name.
func (d *decoder) readAll(name string, in io.Reader) error {
	content, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	all, err := splitDocuments(content)
	// Documents before an invalid one are decoded first, so that the error is about
	// the first problem of the file.
	for i, document := range all {
		if err := d.decodeDocument(document); err != nil {
			return fmt.Errorf("%s: document %d: %w", name, i+1, err)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: document %d: %w", name, len(all)+1, err)
	case len(all) == 0:
		return fmt.Errorf("%s: contains no objects", name)
	}
	return nil
}

// splitDocuments returns the YAML or JSON documents of a file, as JSON, up to the
// first invalid one. Empty documents, such as comments, are skipped.
func splitDocuments(content []byte) ([]json.RawMessage, error) {
	if all, ok := splitJSONDocuments(content); ok {
		return all, nil // much faster than parsing as YAML, which also rejects tabs
	}
	var all []json.RawMessage
	for parts := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		part, err := parts.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		document, err := sigsyaml.YAMLToJSONStrict(part)
		if err != nil {
			return all, errors.New(strings.Join(strings.Fields(err.Error()), " ")) // the error may have several lines
		}
		if string(document) != "null" {
			all = append(all, document)
		}
	}
}

func splitJSONDocuments(content []byte) (all []json.RawMessage, ok bool) {
	for decoder := json.NewDecoder(bytes.NewReader(content)); ; {
		var document json.RawMessage
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all, true
		}
		if err != nil {
			return nil, false
		}
		all = append(all, document)
	}
}

// objectHeader contains the fields common to all objects, and the items of a list.
type objectHeader struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace    string `json:"namespace"`
		Name         string `json:"name"`
		GenerateName string `json:"generateName"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// decodeDocument decodes one document: an object, or a list of objects.
func (d *decoder) decodeDocument(document []byte) error {
	var h objectHeader
	if err := json.Unmarshal(document, &h); err != nil {
		return fmt.Errorf("not a Kubernetes object: %s", typeError(err))
	}
	if h.Kind == "" || h.APIVersion == "" {
		return errors.New("not a Kubernetes object: apiVersion and kind must be set")
	}
	// kubectl get writes a v1 List for several kinds; the API server writes lists
	// such as ServiceList.
	kind, isList := strings.CutSuffix(h.Kind, "List")
	if !isList {
		return d.decodeObject(document, h)
	}
	for i, content := range h.Items {
		var item objectHeader
		if err := json.Unmarshal(content, &item); err != nil {
			return fmt.Errorf("item %d: not a Kubernetes object: %s", i, typeError(err))
		}
		if item.Kind == "" && kind != "" { // the items of a ServiceList may omit their kind
			item.APIVersion, item.Kind = h.APIVersion, kind
		}
		if err := d.decodeObject(content, item); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	return nil
}

// decodeObject decodes one object and adds it to the Collection.
func (d *decoder) decodeObject(content []byte, h objectHeader) error {
	name := strings.TrimPrefix(h.Metadata.Namespace+"/"+h.Metadata.Name, "/")
	kind := schema.FromAPIVersionAndKind(h.APIVersion, h.Kind)
	empty, err := Scheme.New(kind)
	// A Collection without objects finds out whether the kind is supported, in the
	// one place that lists the kinds.
	if held, _ := new(Collection).put(empty); err != nil || !held || d.strict && !inManifests(empty) {
		if d.strict {
			return fmt.Errorf("%s %q: unsupported kind %s of %s; a manifest may contain Fairlead's kinds (%s), and Services, "+
				"Namespaces and Nodes (v1)", h.Kind, name, h.Kind, h.APIVersion, v1alpha1.GroupVersion)
		}
		d.skipped[h.Kind]++
		return nil
	}
	if h.Metadata.Name == "" {
		return fmt.Errorf("%s: metadata.name: must be set", h.Kind)
	}
	// The serializer of the API server rejects the same fields in a strict mode.
	codec := kubejson.NewSerializerWithOptions(kubejson.DefaultMetaFactory, Scheme, Scheme, kubejson.SerializerOptions{Strict: d.strict})
	object, _, err := codec.Decode(content, &kind, nil)
	if err != nil {
		return fmt.Errorf("%s %q: %s", h.Kind, name, decodeErrors(content, empty, err))
	}
	if d.strict {
		if err := validateSchema(h.Kind, content); err != nil {
			return fmt.Errorf("%s %q: %w", h.Kind, name, err)
		}
	}
	switch o := object.(type) {
	// Of the kinds in a manifest, only a Service has a namespace.
	case *corev1.Service:
		o.Namespace = cmp.Or(o.Namespace, d.namespace)
	// EndpointSlices and Events are only in dumps, which have their namespace.
	case *discoveryv1.EndpointSlice, *corev1.Event:
	case metav1.Object:
		o.SetNamespace("") // the other kinds are cluster-scoped; a namespace in the file is ignored
	}
	// In a dump of several files an object may occur twice; in manifests one of the
	// two would be ignored silently.
	if _, replaced := d.into.put(object); replaced && d.strict {
		return fmt.Errorf("%s %q: duplicate object", h.Kind, name)
	}
	return nil
}

var strictError = regexp.MustCompile(`^(unknown|duplicate) field "(.+)"$`)

// decodeErrors returns the fields that cannot be decoded, with the causes.
func decodeErrors(content []byte, empty runtime.Object, err error) string {
	strict, ok := runtime.AsStrictDecodingError(err)
	if !ok {
		// The error of encoding/json names the field; the one of the decoder does not.
		if standard := json.Unmarshal(content, empty); standard != nil {
			err = standard
		}
		return typeError(err)
	}
	var all []string
	for _, e := range strict.Errors() {
		text := e.Error()
		if m := strictError.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s: %s field", m[2], m[1])
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// typeError returns the field and the expected type if the error is a wrong type.
func typeError(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err.Error()
	}
	return fmt.Sprintf("%s: must be %s, not %s", cmp.Or(wrong.Field, "the document"), typeText(wrong.Type), valueText(wrong.Value))
}

// valueText returns the description of a value, given that of encoding/json.
func valueText(value string) string {
	value = strings.TrimSuffix(value, " ")
	switch {
	case value == "bool":
		return "true or false"
	case strings.HasPrefix(value, "number "):
		return "the number " + strings.TrimPrefix(value, "number ")
	case value == "array":
		return "a list"
	case value == "object":
		return "an object"
	}
	return "a " + value
}

// typeText returns the description of the type of a field.
func typeText(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a %d-bit integer", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("an unsigned %d-bit integer", t.Bits())
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "an object"
}
