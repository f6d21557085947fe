"""The blocks of a config that United-Perception's documentation of BigNAS shows."""

from __future__ import annotations

# As its documentation has them: the keys of mimic_job0 stand beside it, those of a part deeper than its name.
BIGNAS = """\
bignas:
    train: # This field is used to write information related to supnet training
        sample_subnet_num: 1
        sample_strategy: ['max', 'random', 'random', 'min']
        valid_before_train: False # Is there a verification before the supnet training
    data:  # This field writes information related to the input resolution adjustment
        share_interpolation: False
        interpolation_type: bicubic
        image_size_list: [[1, 3, 768, 1344]]
        calib_meta_file: /mnt/lustre/share/shenmingzhu/calib_coco/coco_2048_coco_format.json
        metric1: bbox.AP
        metric2: bbox.AP.5
    distiller:
        mimic:
            mimic_as_jobs: True
            mimic_job0:
            loss_weight: 0.5
            teacher0:
                mimic_name: ['neck.p6_conv.conv']
            student:
                mimic_name: ['neck.p6_conv.conv']
        teacher0: {}
    subnet:
        calib_bn: True
        image_size: [1, 3, 768, 1344]
        flops_range: ['200G', '400G']
        baseline_flops: 200G
        subnet_count: 100
        subnet_sample_mode: traverse
        subnet_settings:
            backbone:
                kernel_size: [3, 3, 3, 3, 3]
                out_channel: [32, 48, 96, 192, 384]
                depth: [1, 1, 2, 2, 4]
            neck:
                depth: [3, 5]
                out_channel: [128, 128]
                kernel_size: [1, 3]
            roi_head.cls_subnet:
                depth: [4]
                out_channel: [64]
                kernel_size: [3]
            roi_head.box_subnet:
                depth: [4]
                out_channel: [64]
                kernel_size: [3]
        save_subnet_prototxt: False
"""
NET = """\
net:
- name: backbone            
    type: big_resnet_basic
    kwargs:
    ···
    normalize:
      type: dynamic_solo_bn # Dynamic normalize, supports dynamic_sync_bn and dynamic_solo_bn
    out_channel:
        space:
            min: [32, 48, 96, 192, 384]
            max: [64, 80, 160, 320, 640]
            stride: [16, 16, 32, 64, 128]
        sample_strategy: stage_wise
    kernel_size:
        space:
            min: [3, 3, 3, 3, 3]
            max: [7, 3, 3, 3, 3]
            stride: 2
        sample_strategy: stage_wise
    expand_ratio: [0.5, 1, 1, 1, 1]
    depth:
        space:
            min: [1, 1, 2, 2, 4]
            max: [1, 3, 4, 4, 6]
            stride: [1, 1, 1, 1, 1]
        sample_strategy: stage_wise_depth
"""  # noqa: W291
