package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/cmd/fairlead/doctor"
	"github.com/fairlead-io/fairlead/cmd/fairlead/dump"
	"github.com/fairlead-io/fairlead/cmd/fairlead/explain"
	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// FuzzDump checks that every command returns a result or an error for arbitrary
// dumps and manifests.
func FuzzDump(f *testing.F) {
	for _, pattern := range []string{"testdata/docs/*.yaml", "testdata/*.txt"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			text := string(content)
			if i := strings.Index(text, "-- dump.yaml --\n"); i >= 0 {
				text, _, _ = strings.Cut(text[i+len("-- dump.yaml --\n"):], "\n-- ")
			}
			f.Add(text, `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop},
spec: {type: LoadBalancer, ipFamilyPolicy: PreferDualStack}}`)
		}
	}
	f.Fuzz(func(_ *testing.T, text, manifest string) {
		manifests, err := objects.FromManifests([]string{"-"}, strings.NewReader(manifest), "default")
		if err != nil {
			manifests = new(objects.Collection)
		}
		all, _, err := objects.FromDumps([]string{"-"}, strings.NewReader(text))
		if err != nil {
			return
		}
		s := all.Snapshot(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), providers.Policy{Mode: providers.Auto})
		_ = doctor.Examine(s).Text(io.Discard)
		for _, svc := range s.Controller.Services {
			if e, err := explain.Service(s, cache.MetaObjectToName(svc).AsNamespacedName()); err == nil {
				_ = e.Text(io.Discard)
			}
		}
		if r, err := plan.Preview(s.Controller, plan.Request{Manifests: manifests}); err == nil {
			_ = r.Text(io.Discard)
		}
		_ = dump.Write(io.Discard, all)
	})
}
