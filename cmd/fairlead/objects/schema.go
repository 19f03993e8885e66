// This file validates manifests as the API server would validate the objects:
// against the schema of the CRD, and then its rules in CEL.

package objects

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	openapi "k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/deploy/crds"
)

// crdSchemas returns the schemas of the CRDs that this program was built with, by
// kind.
var crdSchemas = sync.OnceValues(func() (map[string]*spec.Schema, error) {
	all := map[string]*spec.Schema{}
	files, err := crds.Files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list the CRDs: %w", err)
	}
	for _, f := range files {
		text, err := crds.Files.ReadFile(f.Name())
		if err != nil {
			return nil, fmt.Errorf("read the CRD %s: %w", f.Name(), err)
		}
		var crd struct {
			Spec struct {
				Names    struct{ Kind string }
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema spec.Schema `json:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return nil, fmt.Errorf("read the CRD %s: %w", f.Name(), err)
		}
		// Fairlead's kinds have one version each.
		all[crd.Spec.Names.Kind] = &crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return all, nil
})

var errorInBody = regexp.MustCompile(`^\.?(\S*) in body (.*)$`)

// validateSchema returns an error that names all fields that the API server would
// reject in an object of the kind. It accepts objects of other kinds than
// Fairlead's, for which there is no schema here.
func validateSchema(kind string, content []byte) error {
	schemas, err := crdSchemas()
	if err != nil {
		return err
	}
	schema := schemas[kind]
	if schema == nil {
		return nil
	}
	var object map[string]any
	if err := utiljson.Unmarshal(content, &object); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	var invalid []string
	for _, e := range openapi.NewSchemaValidator(schema, nil, "", strfmt.Default).Validate(object).Errors {
		text := e.Error()
		// The validator names a part of an HTTP request; the message here has the
		// form of Kubernetes: the field path first.
		if m := errorInBody.FindStringSubmatch(text); m != nil {
			text = m[1] + ": " + m[2]
		}
		invalid = append(invalid, text)
	}
	if len(invalid) == 0 { // rules rely on valid types
		env, err := celEnv()
		if err != nil {
			return err
		}
		if invalid, err = brokenRules(env, "", schema, object); err != nil {
			return err
		}
	}
	if len(invalid) > 0 {
		return errors.New(strings.Join(invalid, "; "))
	}
	return nil
}

// celEnv returns the CEL environment in which the API server evaluates the rules of
// a CRD (x-kubernetes-validations).
var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	env, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Env(environment.StoredExpressions)
	if err == nil {
		env, err = env.Extend(cel.Variable("self", cel.DynType))
	}
	if err != nil {
		return nil, fmt.Errorf("create the CEL environment: %w", err)
	}
	return env, nil
})

// brokenRules returns the field and the message of each rule that the value, or a
// value nested in it, violates.
func brokenRules(env *cel.Env, field string, schema *spec.Schema, value any) (broken []string, err error) {
	// The schema of the library does not know the field, so that it is among the
	// extensions.
	declared, _ := schema.Extensions["x-kubernetes-validations"].([]any)
	for _, d := range declared {
		rule, _ := d.(map[string]any)
		expression, _ := rule["rule"].(string)
		holds, err := evaluateRule(env, expression, value)
		if err != nil {
			return nil, fmt.Errorf("evaluate a rule of %s: %w", field, err)
		}
		if !holds {
			message, _ := rule["message"].(string)
			broken = append(broken, strings.TrimPrefix(field, ".")+": "+message)
		}
	}
	descend := func(field string, schema *spec.Schema, value any) error {
		more, err := brokenRules(env, field, schema, value)
		broken = append(broken, more...)
		return err
	}
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			// A field that is not declared was rejected before by the strict
			// decoder.
			if property, declared := schema.Properties[name]; declared {
				if err := descend(field+"."+name, &property, value[name]); err != nil {
					return nil, err
				}
			}
		}
	case []any:
		if schema.Items == nil || schema.Items.Schema == nil {
			break
		}
		for i, v := range value {
			if err := descend(fmt.Sprintf("%s[%d]", field, i), schema.Items.Schema, v); err != nil {
				return nil, err
			}
		}
	}
	return broken, nil
}

// evaluateRule reports whether the value satisfies the rule.
func evaluateRule(env *cel.Env, rule string, self any) (holds bool, err error) {
	ast, issues := env.Compile(rule)
	if err := issues.Err(); err != nil {
		return false, err
	}
	program, err := env.Program(ast)
	if err != nil {
		return false, err
	}
	result, _, err := program.Eval(map[string]any{"self": self})
	if err != nil {
		return false, err
	}
	holds, _ = result.Value().(bool)
	return holds, nil
}
