package aws

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
)

const checkScript = "../../deploy/aws-check"

// checkCommand returns the script for users, with moto as AWS. The account is that of
// moto's default, which no other test uses.
func checkCommand(t *testing.T, server string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), checkScript, args...)
	// The aws CLI may need the Python of the developer's environment.
	cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+server, "AWS_REGION=eu-west-1",
		"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret")
	return cmd
}

// checkLeftovers reports what a run of the script has left in moto.
func checkLeftovers(t *testing.T, server string) {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), identity, config.WithRegion("eu-west-1"), config.WithBaseEndpoint(server))
	if err != nil {
		t.Fatal(err)
	}
	e, l := ec2.NewFromConfig(cfg), elb.NewFromConfig(cfg)
	for _, b := range get(t, l.DescribeLoadBalancers, &elb.DescribeLoadBalancersInput{}).LoadBalancers {
		t.Errorf("the load balancer %s is left", *b.LoadBalancerName)
	}
	for _, g := range get(t, l.DescribeTargetGroups, &elb.DescribeTargetGroupsInput{}).TargetGroups {
		t.Errorf("the target group %s is left", *g.TargetGroupName)
	}
	for _, g := range get(t, e.DescribeSecurityGroups, &ec2.DescribeSecurityGroupsInput{}).SecurityGroups {
		if *g.GroupName != "default" {
			t.Errorf("the security group %s is left", *g.GroupName)
		}
	}
}

// TestAWSCheck runs the script that compares AWS with what is expected of it, on moto.
// The table of docs/aws-emulator.md must have its checks and results.
func TestAWSCheck(t *testing.T) {
	t.Run("moto", func(t *testing.T) {
		server := moto(t).String()
		_, err := exec.LookPath("aws")
		requireProgram(t, err)
		t.Run("result", func(t *testing.T) {
			out, err := checkCommand(t, server, "--run").Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Fatalf("moto differs from AWS, but the script ended with %v\n%s", err, out)
			}
			table := []string{"|---|---|---|---|"}
			for line := range strings.Lines(string(out)) {
				row := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
				if len(row) != 5 {
					t.Fatalf("the row is %q", row)
				}
				observed := "as expected"
				if row[4] == "DIFFERS" {
					observed = "**" + row[3] + "**"
				}
				table = append(table, fmt.Sprintf("| `%s` | %s | %s | %s |", row[0], row[1], row[2], observed))
			}
			compareDocsTable(t, "aws-emulator.md", "check", table)
			checkLeftovers(t, server)
		})
		t.Run("interrupted", func(t *testing.T) {
			cmd := checkCommand(t, server, "--run")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C signals the whole group
			var messages bytes.Buffer
			cmd.Stderr = &messages
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			rows := bufio.NewScanner(out)
			for rows.Scan() {
				// Everything exists now, except the listener.
				if strings.HasPrefix(rows.Text(), "balancer-duplicate") {
					if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
						t.Error(err)
					}
				}
			}
			_ = cmd.Wait() // an error, as for the status 130
			if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(messages.String(), "Nothing is left.") {
				t.Errorf("the status is %s\n%s", cmd.ProcessState, messages.String())
			}
			checkLeftovers(t, server)
		})
	})
}

// TestAWSCheckDryRun checks that the script calls nothing by default, and prints every
// check and its expectation.
func TestAWSCheckDryRun(t *testing.T) {
	dir := t.TempDir()
	called := filepath.Join(dir, "called")
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte("#!/bin/sh\necho \"$@\" >> "+called+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := checkCommand(t, "http://127.0.0.1:1")
	cmd.Env = append(cmd.Env, "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if calls, err := os.ReadFile(called); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dry run called %q, %v", calls, err)
	}
	rows := docsTable(t, "aws-emulator.md", "check")
	if n := strings.Count(string(out), "\n"); n != len(rows) || n == 0 {
		t.Errorf("%d checks, and %d in the docs", n, len(rows))
	}
	for _, row := range rows {
		if !strings.Contains(string(out), "\n"+strings.Trim(row[0], "`")+" ") && !strings.HasPrefix(string(out), strings.Trim(row[0], "`")+" ") {
			t.Errorf("the dry run does not print %s", row[0])
		}
	}
}

// TestAWSCheckUnavailable checks that the deletion of what is left ends if AWS does not
// answer, and that the region of the arguments takes precedence.
func TestAWSCheckUnavailable(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"sleep": "exit 0",
		"aws": "[ $1 = sts ] && exit 0\necho \"$AWS_REGION $AWS_DEFAULT_REGION\" >> " + dir + "/calls\n" +
			"echo 'Could not connect to the endpoint URL' >&2; exit 255",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	clean := func(path string) (messages string) {
		cmd := checkCommand(t, "http://127.0.0.1:1", "--clean", "fl-check-1-2", "--region", "eu-north-1")
		cmd.Env = append(cmd.Env, "PATH="+path)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("ended with %v\n%s", err, out)
		}
		return string(out)
	}
	if out := clean(dir + ":" + os.Getenv("PATH")); !strings.HasSuffix(out, "delete them with: deploy/aws-check --clean fl-check-1-2 --region eu-north-1\n") {
		t.Errorf("the output is\n%s", out)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || strings.TrimSpace(strings.ReplaceAll(string(calls), "eu-north-1 eu-north-1", "")) != "" {
		t.Errorf("the regions of the calls are %q, %v", calls, err)
	}
}
