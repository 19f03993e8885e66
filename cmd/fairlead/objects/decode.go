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
	// strict is for manifests: they must hold nothing but kinds that users write,
	// and be valid.
	strict bool
	// namespace is that of Services that name none.
	namespace string
	into      *Collection
	// skipped counts the objects of kinds that no decision depends on; nil if strict.
	skipped map[string]int
}

// readFile reads one file, or standard input for "-".
func (d *decoder) readFile(path string, stdin io.Reader) error {
	if path == "-" {
		return d.readAll("standard input", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return err // it names the file
	}
	defer f.Close()
	return d.readAll(path, f)
}

// readAll reads all documents. The name is for errors.
func (d *decoder) readAll(name string, in io.Reader) error {
	content, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	all, err := splitDocuments(content)
	for i, document := range all {
		if err := d.decodeDocument(document); err != nil {
			return fmt.Errorf("%s: document %d: %w", name, i+1, err)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: document %d: %w", name, len(all)+1, err)
	case len(all) == 0:
		return fmt.Errorf("%s: it holds no object", name)
	}
	return nil
}

// splitDocuments returns the YAML or JSON documents of a file, as JSON, up to the
// first one that is invalid. Empty ones, such as comments, do not count.
func splitDocuments(content []byte) ([]json.RawMessage, error) {
	if all, ok := splitJSONDocuments(content); ok {
		return all, nil // much faster than as YAML, which also refuses tabs
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
			return all, errors.New(strings.Join(strings.Fields(err.Error()), " ")) // it may have several lines
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

// objectHeader is what every object has in common, and the items of a list.
type objectHeader struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace    string `json:"namespace"`
		Name         string `json:"name"`
		GenerateName string `json:"generateName"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// decodeDocument reads one document: an object, or a list of objects.
func (d *decoder) decodeDocument(document []byte) error {
	var h objectHeader
	if err := json.Unmarshal(document, &h); err != nil {
		return fmt.Errorf("is no Kubernetes object: %s", typeError(err))
	}
	if h.Kind == "" || h.APIVersion == "" {
		return errors.New("is no Kubernetes object: it has no apiVersion, or no kind")
	}
	kind, isList := strings.CutSuffix(h.Kind, "List")
	if !isList {
		return d.decodeObject(document, h)
	}
	for i, content := range h.Items {
		var item objectHeader
		if err := json.Unmarshal(content, &item); err != nil {
			return fmt.Errorf("item %d: is no Kubernetes object: %s", i, typeError(err))
		}
		if item.Kind == "" && kind != "" { // the items of a ServiceList do not name their kind
			item.APIVersion, item.Kind = h.APIVersion, kind
		}
		if err := d.decodeObject(content, item); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	return nil
}

// decodeObject reads one object.
func (d *decoder) decodeObject(content []byte, h objectHeader) error {
	name := strings.TrimPrefix(h.Metadata.Namespace+"/"+h.Metadata.Name, "/")
	kind := schema.FromAPIVersionAndKind(h.APIVersion, h.Kind)
	empty, err := Scheme.New(kind)
	if held, _ := new(Collection).put(empty); err != nil || !held || d.strict && !inManifests(empty) {
		if d.strict {
			return fmt.Errorf("%s %q: the kind %s of %s is not known here: a file may hold Fairlead's kinds (%s), and Services, "+
				"Namespaces and Nodes (v1)", h.Kind, name, h.Kind, h.APIVersion, v1alpha1.GroupVersion)
		}
		d.skipped[h.Kind]++
		return nil
	}
	if h.Metadata.Name == "" {
		return fmt.Errorf("%s: metadata.name: is missing", h.Kind)
	}
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
	case *corev1.Service:
		o.Namespace = cmp.Or(o.Namespace, d.namespace)
	case *discoveryv1.EndpointSlice:
	case metav1.Object:
		o.SetNamespace("") // the other kinds have none, whatever the file says
	}
	if _, replaced := d.into.put(object); replaced && d.strict {
		return fmt.Errorf("%s %q: is there twice", h.Kind, name)
	}
	return nil
}

var strictError = regexp.MustCompile(`^(unknown|duplicate) field "(.+)"$`)

// decodeErrors returns the fields that cannot be decoded, and why.
func decodeErrors(content []byte, empty runtime.Object, err error) string {
	strict, ok := runtime.AsStrictDecodingError(err)
	if !ok {
		// The decoder's error does not name the field; that of the standard library does.
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

// typeError names the field that has the wrong type, if that is the error.
func typeError(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err.Error()
	}
	return fmt.Sprintf("%s: is %s, must be %s", cmp.Or(wrong.Field, "the document"), valueText(wrong.Value), typeText(wrong.Type))
}

// valueText describes a value by the description that encoding/json has of it.
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

// typeText describes the type that a field must have.
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
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0, of %d bits", t.Bits())
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "an object"
}
