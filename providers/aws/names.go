package aws
import (
 _ "github.com/aws/aws-sdk-go-v2/config"
 _ "github.com/aws/aws-sdk-go-v2/service/ec2"
 _ "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
 _ "github.com/aws/aws-sdk-go-v2/credentials"
 _ "github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
 _ "golang.org/x/time/rate"
)
