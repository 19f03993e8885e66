package main

import (
	"archive/tar"
	"fmt"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPushedImages pushes both images to a registry and checks the images that a node
// would pull.
func TestPushedImages(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/fairlead"
	platform := "linux/" + runtime.GOARCH
	o := options{root: "../../..", repository: repository, tag: "v1", platforms: []string{platform}, insecure: true}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"controller", "speaker"} {
		ref, err := name.NewTag(repository+"/"+command+":v1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(config.Config.Entrypoint, config.Config.User); got != "[/fairlead-"+command+"]65532:65532" {
			t.Errorf("%s runs %s", command, got)
		}
		content := mutate.Extract(image)
		defer content.Close()
		header, err := tar.NewReader(content).Next()
		if err != nil {
			t.Fatal(err)
		}
		if header.Name != "fairlead-"+command || header.Mode != 0o555 || header.Size < 1<<20 {
			t.Errorf("%s contains %+v", command, header)
		}
	}
}

func TestRepositoryIsChecked(t *testing.T) {
	for repository, want := range map[string]string{"": "IMG must be set", "UPPER/case": "IMG=UPPER/case"} {
		if err := run(t.Context(), options{repository: repository, tag: "v1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", repository, err)
		}
	}
}
