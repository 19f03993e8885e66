// Command image builds Fairlead's container images from the Go sources, without
// Docker, and pushes them. An image consists of a static binary on an empty base, for
// each platform.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// options are the values of the command line flags.
type options struct {
	root, repository, tag string
	platforms             []string
	insecure              bool // plain HTTP, for a registry on this machine
}

func main() {
	var o options
	var platforms string
	flag.StringVar(&o.root, "root", ".", "root of the Fairlead repository")
	flag.StringVar(&o.repository, "repository", "", "destination of the images REPOSITORY/controller and REPOSITORY/speaker")
	flag.StringVar(&o.tag, "tag", "dev", "tag of the images")
	flag.StringVar(&platforms, "platforms", "linux/amd64,linux/arm64", "platforms to build for")
	flag.BoolVar(&o.insecure, "insecure", false, "use HTTP for the registry")
	flag.Parse()
	o.platforms = strings.Split(platforms, ",")
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.repository == "" {
		return errors.New("IMG must be set: make image IMG=registry.example.com/fairlead")
	}
	for _, command := range []string{"controller", "speaker"} {
		var opts []name.Option
		if o.insecure {
			opts = append(opts, name.Insecure)
		}
		ref, err := name.NewTag(o.repository+"/"+command+":"+o.tag, opts...)
		if err != nil {
			return fmt.Errorf("IMG=%s: %w", o.repository, err)
		}
		index, err := buildIndex(o, command)
		if err != nil {
			return err
		}
		if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		digest, err := index.Digest()
		if err != nil {
			return fmt.Errorf("digest of %s: %w", ref, err)
		}
		fmt.Printf("pushed %s@%s\n", ref, digest)
	}
	return nil
}

// buildIndex builds a multi-platform image of a command.
func buildIndex(o options, command string) (v1.ImageIndex, error) {
	index := v1.ImageIndex(mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	for _, text := range o.platforms {
		platform, err := v1.ParsePlatform(text)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", text, err)
		}
		image, err := buildImage(o, command, *platform)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index, nil
}

func buildImage(o options, command string, platform v1.Platform) (v1.Image, error) {
	dir, err := os.MkdirTemp("", "fairlead-image-")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", command, err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, command)
	cmd := exec.Command("go", "build", "-trimpath", "-o", out,
		"-ldflags=-s -w -X github.com/fairlead-io/fairlead/cmd/version.version="+o.tag, "./cmd/"+command)
	cmd.Dir = o.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s for %s: %w\n%s", command, platform, err, output)
	}
	binary, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", command, err)
	}
	// The header has no time or owner, so that equal sources result in equal digests.
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{
		Name: "fairlead-" + command, Typeflag: tar.TypeReg, Mode: 0o555,
		Size: int64(len(binary)),
	}); err != nil {
		return nil, fmt.Errorf("pack %s: %w", command, err)
	}
	if _, err := w.Write(binary); err != nil {
		return nil, fmt.Errorf("pack %s: %w", command, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack %s: %w", command, err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", command, err)
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), l)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", command, err)
	}
	image, err = mutate.ConfigFile(mutate.ConfigMediaType(image, types.OCIConfigJSON), &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, RootFS: mustConfig(image).RootFS,
		Config: v1.Config{
			Entrypoint: []string{"/fairlead-" + command}, User: "65532:65532",
			Labels: map[string]string{
				"org.opencontainers.image.source":  "https://github.com/fairlead-io/fairlead",
				"org.opencontainers.image.version": o.tag,
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", command, err)
	}
	return image, nil
}

// mustConfig returns the configuration of an image in memory, which cannot fail.
func mustConfig(image v1.Image) *v1.ConfigFile {
	c, err := image.ConfigFile()
	if err != nil {
		panic(err)
	}
	return c
}
