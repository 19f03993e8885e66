package controller

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestBFDSecret checks that the Secret is created once, with a random key, after
// requests that fail, and that an existing one is neither read nor changed.
func TestBFDSecret(t *testing.T) {
	var keys [][]byte
	for range 2 {
		api := fake.NewClientset()
		failures := 2
		api.PrependReactor("create", "secrets", func(kubetesting.Action) (bool, runtime.Object, error) {
			failures--
			return failures >= 0, nil, errors.New("unavailable")
		})
		var log bytes.Buffer
		c := &Controller{client: api, namespace: "system", log: slog.New(slog.NewTextHandler(&log, nil))}
		c.ensureBFDSecret(t.Context())
		c.ensureBFDSecret(t.Context())
		for _, a := range api.Actions() {
			if a.GetVerb() != "create" || a.GetNamespace() != "system" {
				t.Errorf("%s in %s", a.GetVerb(), a.GetNamespace())
			}
		}
		s, err := api.CoreV1().Secrets("system").Get(t.Context(), v1alpha1.BFDSecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		key := s.Data[v1alpha1.BFDSecretKey]
		if len(key) != 32 || s.Immutable == nil || !*s.Immutable || len(s.Data) != 1 || s.Type != corev1.SecretType("") {
			t.Errorf("%+v", s)
		}
		if bytes.Contains(log.Bytes(), key) || bytes.Count(log.Bytes(), []byte("\n")) != 2 {
			t.Errorf("log: %s", log.String())
		}
		keys = append(keys, key)
	}
	if bytes.Equal(keys[0], keys[1]) {
		t.Error("the key is not random")
	}
}
