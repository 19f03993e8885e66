package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// measureScarceCPU counts the addresses that are taken over although no node has failed:
// while all cores are busy, and while each speaker may use half a core.
func (b *failoverBench) measureScarceCPU(ctx context.Context) error {
	err := b.countFalseTakeovers(ctx, "all cores busy", func() (end func() error, err error) {
		var busy []*lab.Process
		end = func() (err error) {
			for _, p := range busy {
				p.Kill()
			}
			return nil
		}
		for i := range 2 * runtime.NumCPU() {
			p, err := b.Client.Start(fmt.Sprintf("busy-%d", i), "sh", nil, "-c", "while :; do :; done")
			if err != nil {
				return end, err
			}
			busy = append(busy, p)
		}
		return end, nil
	})
	return errors.Join(err, b.countFalseTakeovers(ctx, "half a core for each speaker", b.limitSpeakers))
}

// countFalseTakeovers counts the addresses that another node announces while the CPU time is
// scarce.
func (b *failoverBench) countFalseTakeovers(ctx context.Context, name string, begin func() (end func() error, err error)) error {
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	moved := 0
	err := b.Step(fmt.Sprintf("%s, for %s", name, b.busy), func() error {
		since := time.Now()
		end, err := begin()
		if err == nil {
			select {
			case <-time.After(b.busy):
			case <-ctx.Done():
			}
		}
		for _, c := range b.claims.Claims() {
			if c.At.After(since) {
				moved++
			}
		}
		return errors.Join(err, end())
	})
	b.table.addMoved(fmt.Sprintf("%s for %s, %d IPv4: addresses that moved", name, b.busy, b.made), moved)
	return err
}

// limitSpeakers limits each speaker to half a core.
func (b *failoverBench) limitSpeakers() (end func() error, err error) {
	root, err := os.MkdirTemp("", "fairlead-lab-cgroup-")
	if err != nil {
		return func() error { return nil }, err
	}
	limit, err := mountCPUController(root)
	if err != nil {
		return func() error { return os.Remove(root) }, err
	}
	var groups []string
	end = func() (err error) {
		for i, group := range groups {
			err = errors.Join(err, b.Speakers[i].MoveToCgroup(root), os.Remove(group))
		}
		return errors.Join(err, unix.Unmount(root, 0), os.Remove(root))
	}
	for i, s := range b.Speakers {
		group := filepath.Join(root, "fairlead-lab-"+strconv.Itoa(i))
		if err := os.Mkdir(group, 0o755); err != nil {
			return end, err
		}
		groups = append(groups, group)
		for name, value := range limit {
			if err := os.WriteFile(filepath.Join(group, name), []byte(value), 0); err != nil {
				return end, err
			}
		}
		if err := s.MoveToCgroup(group); err != nil {
			return end, err
		}
	}
	return end, nil
}

// mountCPUController mounts the cgroups that limit CPU time, of the version that the host
// uses, and returns the files that limit a group to half a core (cgroups(7)).
func mountCPUController(root string) (limit map[string]string, err error) {
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err == nil {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+cpu"), 0); err == nil {
			return map[string]string{"cpu.max": "50000 100000"}, nil
		}
		if err := unix.Unmount(root, 0); err != nil {
			return nil, err
		}
	}
	for _, controllers := range []string{"cpu", "cpu,cpuacct"} {
		if err = unix.Mount("cgroup", root, "cgroup", 0, controllers); err != nil {
			continue
		}
		limit = map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
		// Where real-time scheduling is divided among groups, the BFD thread needs a part.
		if _, err := os.Stat(filepath.Join(root, "cpu.rt_runtime_us")); err == nil {
			limit["cpu.rt_runtime_us"] = "100000"
		}
		return limit, nil
	}
	return nil, fmt.Errorf("mount the cgroups of the CPU controller: %w", err)
}
