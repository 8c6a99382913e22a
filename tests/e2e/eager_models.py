"""The built-in networks once more, in eager PyTorch: written independently, with the parameter names that
PyTorch users know. The checkers beside this file compare Espalier with them.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

# ---- CIFAR ResNets (He et al. 2016, section 4.2) ----


class CifarBlock(nn.Module):
    def __init__(self, inputs, planes, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.planes, self.plain, self.option = planes, stride == 1, shortcut
        if not self.plain and shortcut == "projection":
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def skip(self, x):
        if self.plain:
            return x
        if self.option == "projection":
            return self.shortcut(x)
        side = self.planes // 4
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side), "constant", 0)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


class CifarResNet(nn.Module):
    def __init__(self, depth, classes, shortcut):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width = 16
        for stage, planes in enumerate((16, 32, 64)):
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(CifarBlock(width, planes, stride, shortcut))
                width = planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


# ---- CIFAR VGGs ----

VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]


class CifarVgg16(nn.Module):
    def __init__(self, classes):
        super().__init__()
        features, width = OrderedDict(), 3
        for i, entry in enumerate(VGG16):
            if entry == "M":
                features[f"pool{i}"] = nn.MaxPool2d(2)
                continue
            features[f"conv{i}"] = nn.Conv2d(width, entry, 3, padding=1)
            features[f"norm{i}"] = nn.BatchNorm2d(entry)
            features[f"relu{i}"] = nn.ReLU()
            width = entry
        self.features = nn.Sequential(features)
        self.classifier = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(512, 512),
                norm1=nn.BatchNorm1d(512),
                relu1=nn.ReLU(),
                linear2=nn.Linear(512, classes),
            )
        )

    def forward(self, x):
        x = F.avg_pool2d(self.features(x), 2)
        return self.classifier(x.flatten(1))


class CifarVgg19(nn.Module):
    def __init__(self, classes):
        super().__init__()
        width = 3
        for block, (count, planes) in enumerate([(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)]):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(width, planes, 3, padding=1), nn.BatchNorm2d(planes), nn.ReLU()]
                width = planes
            setattr(self, f"block{block}", nn.Sequential(*layers))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        x = F.max_pool2d(self.block0(x), 2)
        x = F.max_pool2d(self.block1(x), 2)
        x = F.max_pool2d(self.block2(x), 2)
        x = self.block4(self.block3(x))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


# ---- DenseNet-40 ----


class DenseLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 12, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)


class Transition(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet40(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        self.dense1 = nn.Sequential(*[DenseLayer(24 + 12 * i) for i in range(12)])
        self.trans1 = Transition(168)
        self.dense2 = nn.Sequential(*[DenseLayer(168 + 12 * i) for i in range(12)])
        self.trans2 = Transition(312)
        self.dense3 = nn.Sequential(*[DenseLayer(312 + 12 * i) for i in range(12)])
        self.bn = nn.BatchNorm2d(456)
        self.fc = nn.Linear(456, classes)

    def forward(self, x):
        x = self.trans2(self.dense2(self.trans1(self.dense1(self.conv1(x)))))
        x = F.relu(self.bn(self.dense3(x)))
        return self.fc(x.mean((2, 3)))


# ---- GoogLeNet (CIFAR) ----


def conv_norm_relu(inputs, outputs, kernel):
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class Inception(nn.Module):
    def __init__(self, inputs, one, three_in, three, five_in, five, pool):
        super().__init__()
        self.branch1x1 = nn.Sequential(*conv_norm_relu(inputs, one, 1))
        self.branch3x3 = nn.Sequential(
            *conv_norm_relu(inputs, three_in, 1), *conv_norm_relu(three_in, three, 3)
        )
        self.branch5x5 = nn.Sequential(
            *conv_norm_relu(inputs, five_in, 1),
            *conv_norm_relu(five_in, five, 3),
            *conv_norm_relu(five, five, 3),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), *conv_norm_relu(inputs, pool, 1)
        )

    def forward(self, x):
        branches = (self.branch1x1, self.branch3x3, self.branch5x5, self.branch_pool)
        return torch.cat([branch(x) for branch in branches], 1)


class CifarGoogLeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.pre_layers = nn.Sequential(*conv_norm_relu(3, 192, 3))
        self.inception_a3 = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception_b3 = Inception(256, 128, 128, 192, 32, 96, 64)
        self.inception_a4 = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception_b4 = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception_c4 = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception_d4 = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception_e4 = Inception(528, 256, 160, 320, 32, 128, 128)
        self.inception_a5 = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception_b5 = Inception(832, 384, 192, 384, 48, 128, 128)
        self.linear = nn.Linear(1024, classes)

    def forward(self, x):
        x = self.inception_b3(self.inception_a3(self.pre_layers(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        for letter in "abcde":
            x = getattr(self, f"inception_{letter}4")(x)
        x = F.max_pool2d(x, 3, 2, 1)
        x = self.inception_b5(self.inception_a5(x))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


# ---- ImageNet ResNets ----


class ResBlock(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        kernels = [1, 3, 1] if bottleneck else [3, 3]
        strides = [1, stride, 1] if bottleneck else [stride, 1]
        widths = [inputs] + [width] * (len(kernels) - 1) + [outputs]
        self.count = len(kernels)
        for i, (kernel, step) in enumerate(zip(kernels, strides)):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, blocks, bottleneck, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            layers = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResBlock(inputs, width, stride, bottleneck))
                inputs = 4 * width if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


# ---- MobileNetV2 ----


def conv_norm_relu6(inputs, outputs, kernel, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        layers = [conv_norm_relu6(inputs, hidden, 1)] if expansion != 1 else []
        layers += [
            conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes):
        super().__init__()
        table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
        table += [(6, 160, 3, 2), (6, 320, 1, 1)]
        layers, width = [conv_norm_relu6(3, 32, 3, 2)], 32
        for expansion, outputs, count, stride in table:
            for i in range(count):
                layers.append(InvertedResidual(width, outputs, stride if i == 0 else 1, expansion))
                width = outputs
        layers.append(conv_norm_relu6(width, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


# ---- VGG-16 (ImageNet) ----


class Vgg16(nn.Module):
    def __init__(self, classes):
        super().__init__()
        layers, width = [], 3
        for entry in VGG16 + ["M"]:
            if entry == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU()]
            width = entry
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 7).flatten(1))


def build(name, classes, shortcut):
    if name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        return CifarResNet(int(name.removeprefix("resnet")), classes, shortcut)
    return {
        "vgg16_bn_cifar": lambda: CifarVgg16(classes),
        "vgg19_bn_cifar": lambda: CifarVgg19(classes),
        "densenet40": lambda: DenseNet40(classes),
        "googlenet_cifar": lambda: CifarGoogLeNet(classes),
        "resnet18": lambda: ResNet([2, 2, 2, 2], False, classes),
        "resnet34": lambda: ResNet([3, 4, 6, 3], False, classes),
        "resnet50": lambda: ResNet([3, 4, 6, 3], True, classes),
        "mobilenet_v2": lambda: MobileNetV2(classes),
        "vgg16_bn": lambda: Vgg16(classes),
    }[name]()
