package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// birdDaemon runs BIRD 2. It does not require root.
type birdDaemon struct{}

func (b birdDaemon) start(ctx context.Context, r *Router, config string) ([]*Process, error) {
	program, err := r.bin.findProgram("bird")
	if err != nil {
		return nil, fmt.Errorf("%w; fetch it with Fetch(…, BIRD)", err)
	}
	if err := os.WriteFile(r.filePath("bird.conf"), []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("write BIRD's configuration: %w", err)
	}
	p, err := r.Start("bird-"+r.Name, program, nil, "-f", "-c", r.filePath("bird.conf"), "-s", r.filePath("bird.ctl"), "-P",
		r.filePath("bird.pid"))
	if err != nil {
		return nil, err
	}
	return []*Process{p}, Wait(ctx, "BIRD is up", func() error {
		if p.HasEnded() {
			output, _ := os.ReadFile(p.Log)
			return Permanent(fmt.Errorf("BIRD ended: %w\n%s\nconfiguration:\n%s", p.err, output, config))
		}
		_, err := b.show(ctx, r, "show", "status")
		return err
	})
}

func (b birdDaemon) configure(ctx context.Context, r *Router, config string) error {
	if err := os.WriteFile(r.filePath("bird.conf"), []byte(config), 0o644); err != nil {
		return fmt.Errorf("write BIRD's configuration: %w", err)
	}
	out, err := b.show(ctx, r, "configure")
	if err == nil && !strings.Contains(out, "Reconfigur") { // "Reconfigured", "Reconfiguration in progress"
		err = fmt.Errorf("birdc printed\n%s\nconfiguration:\n%s", out, config)
	}
	if err != nil {
		return fmt.Errorf("configure BIRD: %w", err)
	}
	return nil
}

func (birdDaemon) show(ctx context.Context, r *Router, args ...string) (string, error) {
	birdc, err := r.bin.findProgram("birdc")
	if err != nil {
		return "", err
	}
	return r.Run(ctx, birdc, append([]string{"-s", r.filePath("bird.ctl")}, args...)...)
}

func (b birdDaemon) sessions(ctx context.Context, r *Router) (map[string]Session, error) {
	out, err := b.show(ctx, r, "show", "protocols", "all")
	if err != nil {
		return nil, err
	}
	all := make(map[string]Session)
	var state string
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); key {
		case "BGP state":
			state = value
		case "Neighbor address":
			all[value] = Session{State: state}
		}
	}
	out, err = b.show(ctx, r, "show", "bfd", "sessions")
	if err != nil {
		return all, nil // BFD is not configured
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 {
			if s, ok := all[f[0]]; ok {
				s.BFD = f[2]
				all[f[0]] = s
			}
		}
	}
	return all, nil
}

// filePath returns the path of a file of the daemon.
func (r *Router) filePath(name string) string { return filepath.Join(r.dir, name) }
